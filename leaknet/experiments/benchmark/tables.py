"""The rows of a bench, and their layout as JSON."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from leaknet.evaluation.summary import Summary
from leaknet.experiments.tables import LEGEND, NO_INTERVAL, Grid, cell, json_ready, markdown
from leaknet.files import replace_file, write_text

# Macro AUC of the paper's Table 1 on WILD: ten generators, raw and at steps 1 to 3.

PUBLISHED: dict[str, tuple[float, float, float, float]] = {
    "efficientnet-b4": (0.9710, 0.9440, 0.9182, 0.8734),
    "xception": (0.9532, 0.9336, 0.9283, 0.9077),
    "resnet50": (0.9540, 0.9438, 0.9265, 0.9002),
    "freqnet": (0.9756, 0.9561, 0.9029, 0.8934),
    "susy": (0.9802, 0.9590, 0.9277, 0.9040),
    "latenttracer": (0.9788, 0.9605, 0.9253, 0.8809),
    "occ-clip": (0.9570, 0.9391, 0.9267, 0.9199),
    "npr": (0.8981, 0.8048, 0.7648, 0.7115),
    "latte": (0.9716, 0.9599, 0.9441, 0.9096),
    "ours-paper": (0.9813, 0.9614, 0.9462, 0.9225),
}
"""By the row's name; rows that the paper does not have are absent."""


METRICS = ("top1", "macro_auc", "open_auroc", "open_mean", "open_worst")
"""`open_auroc`: all unknown images together; mean and worst: over unknown generators."""


@dataclass(frozen=True)
class PairedDifference:
    """What separates a method from ours on the same test images.

    Attributes:
        top1: ours minus its own, the mean over seeds.
        p: two-sided, the signs of whole prompt groups being flipped.
    """

    top1: float
    p: float


@dataclass(frozen=True)
class BenchRow:
    """One method at one step.

    Attributes:
        method: its name.
        step: of degradation, 0 to 3.
        figures: by `METRICS`, those that there are.
        parameters: of the method; None where it could not be built.
        seconds: of fitting and embedding, the mean over seeds; None where it could not run.
        reason: why figures are missing; empty where none is.
        behind: how far it is behind ours; None for ours, and where either is missing.
    """

    method: str
    step: int
    figures: dict[str, Summary]
    parameters: int | None
    seconds: float | None
    reason: str = ""
    behind: PairedDifference | None = None

    @property
    def published(self) -> float | None:
        """The paper's macro AUC of this row, on WILD."""
        return PUBLISHED[self.method][self.step] if self.method in PUBLISHED else None

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON; `sd`, `interval` and `seeds` repeat the layout of the figures."""
        return {
            "method": self.method,
            "step": self.step,
            **{name: self._value(name) for name in METRICS},
            "parameters": self.parameters,
            "seconds": self.seconds,
            "reason": self.reason,
            "published_macro_auc": self.published,
            "behind_ours": None if self.behind is None else vars(self.behind),
            "sd": self._each(lambda one: one.sd),
            "interval": self._each(lambda one: one.interval),
            "seeds": self._each(lambda one: list(one.seeds)),
        }

    def _value(self, name: str) -> float | None:
        return self.figures[name].value if name in self.figures else None

    def _each(self, pick: Callable[[Summary], Any]) -> dict[str, Any]:
        return {name: pick(one) for name, one in self.figures.items()}


@dataclass(frozen=True)
class BenchResult:
    """All rows so far.

    Attributes:
        rows: by method in order, and within it by step.
        facts: images by fold, classes, seeds, epochs, limit, detector: what all rows share.
    """

    rows: tuple[BenchRow, ...]
    facts: dict[str, Any]

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {**self.facts, "rows": [row.as_dict() for row in self.rows]}


# A bench as tables: one block of methods for each step, as the paper's Table 1 has them.

HEADINGS = (
    "method",
    "top-1",
    "macro AUC",
    "published",
    "open AUROC",
    "behind ours",
    "parameters",
    "seconds",
    "reason",
)
_PUBLISHED = (
    "published: macro AUC of the paper's Table 1 on WILD, which is other data with ten "
    "generators: it says how rows stand to one another there, not what to expect here."
)


def bench_tables(result: BenchResult) -> list[Grid]:
    """A table for each step."""
    return [_block(result, step) for step in result.facts["steps"]]


def _block(result: BenchResult, step: int) -> Grid:
    rows = [row for row in result.rows if row.step == step]
    images, classes = result.facts["images"], len(result.facts["classes"])
    notes = [
        f"{images['test']} test images of {classes} generators (guessing: top-1 {1 / classes:.3f}, "
        f"macro AUC .5), {images['open']} of unknown ones; models learn from "
        f"{images['train']} raw images.",
        f"open AUROC: known against unknown images by {result.facts['detector']}, fitted on closed "
        "raw images. seconds: of fitting and embedding.",
        _training(result),
        LEGEND,
        _PUBLISHED,
    ]
    if any(row.behind is not None for row in rows):
        notes.append(
            "behind ours: top-1 of `ours` minus the row's on the same images, mean over seeds; p "
            "by flipping the signs of whole prompt groups."
        )
    if any(one.interval is None for row in rows for one in row.figures.values()):
        notes.append(NO_INTERVAL)
    title = "raw images" if step == 0 else f"degraded, step {step} (WILD-like)"
    return Grid(f"Table 1: {title}", HEADINGS, tuple(_cells(row) for row in rows), tuple(notes))


def _training(result: BenchResult) -> str:
    epochs, limit = result.facts["epochs"], result.facts["limit"]
    whose = "their own recipes' epochs" if epochs is None else f"at most {epochs} epochs"
    cut = "" if limit is None else f"; at most {limit} images of each fold"
    return f"Networks are trained for {whose}, in {result.facts['precision']}{cut}."


def _cells(row: BenchRow) -> tuple[str, ...]:
    figures = [
        cell(row.figures[name]) if name in row.figures else "–"
        for name in ("top1", "macro_auc", "open_auroc")
    ]
    published = "–" if row.published is None else f"{row.published:.4f}"
    return (
        row.method,
        *figures[:2],
        published,
        figures[2],
        "–" if row.behind is None else f"{row.behind.top1:+.3f} (p = {row.behind.p:.4f})",
        "–" if row.parameters is None else f"{row.parameters:,}",
        "–" if row.seconds is None else f"{row.seconds:.1f}",
        row.reason,
    )


# The files of a bench: bench.json, bench.md and, where pyarrow is installed, bench.parquet.

NAME = "bench"


def write_bench(result: BenchResult, out: Path) -> list[str]:
    """Write the rows so far; returns the names of the files.

    Raises:
        RunError: the folder cannot be written to.
    """
    content = json.dumps(
        json_ready(result.as_dict()), indent=1, ensure_ascii=False, allow_nan=False
    )
    write_text(out / f"{NAME}.json", content + "\n")
    write_text(out / f"{NAME}.md", markdown(bench_tables(result)))
    names = [f"{NAME}.json", f"{NAME}.md"]
    return [*names, f"{NAME}.parquet"] if _write_parquet(result, out / f"{NAME}.parquet") else names


def flat_row(row: BenchRow) -> dict[str, Any]:
    """One record a row: every metric with `_sd`, `_low`, `_high` and `_seeds`."""
    found = row.as_dict()
    names = ("method", "step", "parameters", "seconds", "reason", "published_macro_auc")
    flat = {name: found[name] for name in names}
    flat["behind_ours"] = None if row.behind is None else row.behind.top1
    flat["behind_ours_p"] = None if row.behind is None else row.behind.p
    for metric in METRICS:
        low, high = found["interval"].get(metric) or (None, None)
        flat[metric] = found[metric]
        flat[f"{metric}_sd"] = found["sd"].get(metric)
        flat[f"{metric}_low"], flat[f"{metric}_high"] = low, high
        flat[f"{metric}_seeds"] = found["seeds"].get(metric)
    return flat


def _write_parquet(result: BenchResult, path: Path) -> bool:
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError:
        return False
    number, text = pyarrow.float64(), pyarrow.string()
    plain = [
        ("method", text),
        ("step", pyarrow.int64()),
        ("parameters", pyarrow.int64()),
        ("seconds", number),
        ("reason", text),
        ("published_macro_auc", number),
        ("behind_ours", number),
        ("behind_ours_p", number),
    ]
    numbers = [(f"{m}{end}", number) for m in METRICS for end in ("", "_sd", "_low", "_high")]
    lists = [(f"{metric}_seeds", pyarrow.list_(number)) for metric in METRICS]
    schema = pyarrow.schema([*plain, *numbers, *lists])
    table = pyarrow.Table.from_pylist([flat_row(row) for row in result.rows], schema=schema)
    replace_file(path, lambda partial: parquet.write_table(table, partial))
    return True
