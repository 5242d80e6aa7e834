"""Rows of a table: each is one method on one task, over seeds. A failed row keeps its reason."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

from leakcache.errors import LeakError
from leaknet.evaluation.evaluated import Evaluated
from leaknet.evaluation.summary import PairedDifference, Summary, picked


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
