"""Tables of figures: on the terminal, in Markdown, JSON and Parquet."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from leaknet.evaluation.summary import Summary
from leaknet.files import replace_file, write_json, write_text

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
