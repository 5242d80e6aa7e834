"""Rows of figures, one job each, and their tables: on the terminal, in Markdown, JSON, Parquet."""

from __future__ import annotations

import importlib.util
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from leakcache.errors import LeakError
from leaknet.files import replace_file, write_json, write_text
from leaknet.metrics.detection import Evaluated
from leaknet.metrics.summary import PairedDifference, Summary, picked


@dataclass(frozen=True)
class RowResult:
    """One row.

    Attributes:
        name: of the row; several rows of one name differ in `step`.
        step: of degradation of the evaluated images, 0 to 3.
        reason: why figures are missing; empty where none is.
        figures: by key.
        difference: from the reference row, by key; empty where there is none.
        published: figures printed elsewhere, on other data, by key, from 0 to 1.
        per_class_auc: one-vs-rest area of each generator.
        settings: those that differ from the common ones, in words.
        notes: remarks that belong beside the figures.
        runs: folders, one a seed.
        trained: how many runs were trained, or trained further, in this call.
        parameters: of the network; None where it could not be built.
        seconds: that its runs ever took; None where none could run.
        elapsed: seconds that the row took in this call.
    """

    name: str
    step: int = 0
    reason: str = ""
    figures: Mapping[str, Summary] = field(default_factory=dict)
    difference: Mapping[str, PairedDifference] = field(default_factory=dict)
    published: Mapping[str, float] = field(default_factory=dict)
    per_class_auc: Mapping[str, Summary] = field(default_factory=dict)
    settings: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    runs: tuple[Path, ...] = ()
    trained: int = 0
    parameters: int | None = None
    seconds: float | None = None
    elapsed: float = 0.0

    def figures_dict(self) -> dict[str, Any]:
        """Figures as plain values for JSON; `sd`, `interval` and `seeds` repeat their layout."""
        return {
            **picked(self.figures, lambda one: one.value),
            "sd": picked(self.figures, lambda one: one.sd),
            "interval": picked(self.figures, lambda one: one.interval),
            "seeds": picked(self.figures, lambda one: list(one.seeds)),
        }

    def record(self, keys: Sequence[str]) -> dict[str, Any]:
        """Figures as one flat record: every key with `_sd`, `_low`, `_high` and `_seeds`."""
        record: dict[str, Any] = {}
        for key in keys:
            one = self.figures.get(key)
            low, high = (one and one.interval) or (None, None)
            record[key], record[f"{key}_sd"] = one and one.value, one and one.sd
            record[f"{key}_low"], record[f"{key}_high"] = low, high
            record[f"{key}_seeds"] = one and list(one.seeds)
        return record


class Outcome(NamedTuple):
    """A finished row and the scores that it is compared by; None where it is not compared."""

    row: RowResult
    evaluated: Evaluated | None = None


@dataclass(frozen=True)
class Job:
    """One method on its tasks.

    Attributes:
        rows: its rows, without figures; at least one.
        run: trains and evaluates what is not done yet, and returns the rows in the same order.
    """

    rows: tuple[RowResult, ...]
    run: Callable[[], Sequence[Outcome]]

    @property
    def name(self) -> str:
        """Name of its rows."""
        return self.rows[0].name


OnRows = Callable[[tuple[RowResult, ...], tuple[RowResult, ...]], object]


def run_jobs(jobs: Sequence[Job], reference: str, on_rows: OnRows) -> tuple[RowResult, ...]:
    """Run all jobs, the one that others are compared with first; rows keep the order of `jobs`.

    A job that fails keeps its reason in its rows, and the others go on.

    Args:
        jobs: in the order of the table.
        reference: name of the job that others are compared with; any other name for none.
        on_rows: called after each job with all rows so far and those of the job.
    """
    done: dict[str, tuple[RowResult, ...]] = {}
    references: dict[int, Evaluated] = {}

    def table() -> tuple[RowResult, ...]:
        return tuple(row for job in jobs for row in done.get(job.name, ()))

    for job in sorted(jobs, key=lambda job: job.name != reference):
        start = time.perf_counter()
        try:
            outcomes = job.run()
            rows = [_compared(outcome, references) for outcome in outcomes]
            if job.name == reference:
                references = {o.row.step: o.evaluated for o in outcomes if o.evaluated}
        # torch reports what a model or a machine cannot do as a RuntimeError.
        except (LeakError, RuntimeError, MemoryError) as error:
            rows = [replace(row, reason=_one_line(error)) for row in job.rows]
        elapsed = time.perf_counter() - start
        done[job.name] = tuple(replace(row, elapsed=elapsed) for row in rows)
        on_rows(table(), done[job.name])
    return table()


def _compared(outcome: Outcome, references: Mapping[int, Evaluated]) -> RowResult:
    row, evaluated = outcome
    reference = references.get(row.step)
    if evaluated is None or reference is None:
        return row
    return replace(row, difference=evaluated.minus(reference))


def _one_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__


LEGEND = (
    "Mean over seeds ± sample sd over seeds (95 % interval of the mean over images, prompt "
    "groups drawn with replacement)."
)
NO_INTERVAL = "No interval where a set of images has a single prompt group."
ABSENT = "–"
WIDTH = 200


@dataclass(frozen=True)
class Grid:
    """One table.

    Attributes:
        title: what it answers.
        headings: of the columns, the first that of the rows.
        rows: cells as text.
        notes: sentences that must be read with it.
    """

    title: str
    headings: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    notes: tuple[str, ...] = ()


def cell(summary: Summary | None, *, signed: bool = False, interval: bool = True) -> str:
    """Mean, spread over seeds and interval, as far as there are such; a dash for None."""
    if summary is None:
        return ABSENT
    sign = "+" if signed else ""
    text = f"{summary.value:{sign}.3f}"
    if summary.sd is not None:
        text += f" ± {summary.sd:.3f}"
    if interval and summary.interval is not None:
        low, high = summary.interval
        text += f" ({low:{sign}.3f} to {high:{sign}.3f})"
    return text


def figure_row(
    name: str, metrics: Mapping[str, Summary], columns: Iterable[str]
) -> tuple[str, ...]:
    """A row of cells; a dash where a metric is absent."""
    return (name, *(cell(metrics.get(key)) for key in columns))


def print_grids(grids: Iterable[Grid]) -> None:
    """Print tables and their notes."""
    # Off a terminal rich assumes 80 columns, in which a cell with its interval breaks in three.
    console = Console(width=None if sys.stdout.isatty() else WIDTH)
    for grid in grids:
        table = Table(title=escape(grid.title), title_justify="left")
        for number, heading in enumerate(grid.headings):
            table.add_column(heading, justify="left" if number == 0 else "right", overflow="fold")
        for row in grid.rows:
            table.add_row(*(escape(text) for text in row))
        console.print(table)
        for note in grid.notes:
            console.print(f"[dim]{escape(note)}[/dim]")


def markdown(grids: Iterable[Grid]) -> str:
    """The same as Markdown, one section a table."""
    return "\n".join(_section(grid) for grid in grids)


def write_table(
    out: Path,
    name: str,
    content: Mapping[str, Any],
    grids: Iterable[Grid],
    records: Sequence[Mapping[str, Any]] = (),
    figure: str = "",
) -> list[str]:
    """Write NAME.json, NAME.md and, where they are given, NAME.svg and NAME.parquet.

    Args:
        out: folder.
        name: of the files.
        content: of the JSON file.
        grids: of the Markdown file.
        records: rows of the Parquet file, which is left out where pandas or pyarrow is missing.
        figure: SVG, which the Markdown file shows.

    Returns:
        Names of the files.

    Raises:
        RunError: the folder cannot be written to.
    """
    grids, names = list(grids), [f"{name}.json", f"{name}.md"]
    write_json(out / names[0], content)
    image = f"\n![{grids[0].title}]({name}.svg)\n" if figure else ""
    write_text(out / names[1], markdown(grids) + image)
    if figure:
        names.append(f"{name}.svg")
        write_text(out / names[-1], figure + "\n")
    if records and all(importlib.util.find_spec(module) for module in ("pandas", "pyarrow")):
        names.append(f"{name}.parquet")
        _write_parquet(out / names[-1], records)
    return names


def _write_parquet(path: Path, records: Sequence[Mapping[str, Any]]) -> None:
    import pandas

    columns = {key: [record[key] for record in records] for key in records[0]}
    frame = pandas.DataFrame(
        {key: pandas.Series(values, dtype=_dtype(values)) for key, values in columns.items()}
    )
    replace_file(path, lambda partial: frame.to_parquet(partial, index=False))


def _dtype(values: Sequence[Any]) -> str:
    """Of a column that may lack values; one without any is of numbers."""
    kinds = {int: "Int64", str: "string", list: "object", tuple: "object"}
    present = {type(value) for value in values if value is not None}
    return kinds.get(present.pop(), "float64") if len(present) == 1 else "float64"


def _section(grid: Grid) -> str:
    lines = [f"## {grid.title}", "", _line(grid.headings), _line(["---"] * len(grid.headings))]
    lines += [_line(row) for row in grid.rows]
    for note in grid.notes:
        lines += ["", note]
    return "\n".join([*lines, ""])


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"
