"""A bench as tables and files: one block of methods for each step, as in the paper's Table 1."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from leaknet.experiments.rows import RowResult
from leaknet.experiments.tables import (
    ABSENT,
    LEGEND,
    NO_INTERVAL,
    Grid,
    cell,
    figure_row,
    write_table,
)

OURS = "ours"
"""The method that others are compared with."""

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
"""Macro AUC of the paper's Table 1 on WILD, ten generators, raw and at steps 1 to 3, by row."""

METRICS = ("top1", "top5", "macro_auc", "open_auroc", "open_oscr", "open_mean", "open_worst")
"""`top5`: with more than ten classes; `open_auroc`, `open_oscr`: all unknown images together;
`open_mean`, `open_worst`: AUROC over unknown generators."""


@dataclass(frozen=True)
class BenchResult:
    """All rows so far.

    Attributes:
        rows: by method in order, and within it by step.
        facts: images by fold, classes, seeds, epochs, limit, detector: what all rows share.
    """

    rows: tuple[RowResult, ...]
    facts: dict[str, Any]

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {**self.facts, "rows": [row_dict(row) for row in self.rows]}


def behind_ours(row: RowResult) -> dict[str, Any] | None:
    """Top-1 of ours minus that of the row, and its p value; None where either is missing."""
    found = row.difference.get("top1")
    return None if found is None else {"top1": -found.value, "p": found.p}


def row_dict(row: RowResult) -> dict[str, Any]:
    """A row as plain values for JSON."""
    return {
        "method": row.name,
        "step": row.step,
        **dict.fromkeys(METRICS),
        "parameters": row.parameters,
        "seconds": row.seconds,
        "reason": row.reason,
        "published_macro_auc": row.published.get("macro_auc"),
        "behind_ours": behind_ours(row),
        **row.figures_dict(),
    }


def parquet_row(row: RowResult) -> dict[str, Any]:
    """A flat record: every metric with `_sd`, `_low`, `_high` and `_seeds`."""
    found, behind = row_dict(row), behind_ours(row) or {}
    names = ("method", "step", "parameters", "seconds", "reason", "published_macro_auc")
    return {
        **{name: found[name] for name in names},
        "behind_ours": behind.get("top1"),
        "behind_ours_p": behind.get("p"),
        **row.record(METRICS),
    }


def write_bench(result: BenchResult, out: Path) -> list[str]:
    """Write bench.json, bench.md and bench.parquet; returns and raises as `write_table`."""
    records = [parquet_row(row) for row in result.rows]
    return write_table(out, "bench", result.as_dict(), bench_tables(result), records)


CLOSED = {"top1": "top-1", "top5": "top-5", "macro_auc": "macro AUC"}
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
    if any(row.difference for row in rows):
        notes.append(
            "behind ours: top-1 of `ours` minus the row's on the same images, mean over seeds; p "
            "by flipping the signs of whole prompt groups."
        )
    if any(one.interval is None for row in rows for one in row.figures.values()):
        notes.append(NO_INTERVAL)
    title = "raw images" if step == 0 else f"degraded, step {step} (WILD-like)"
    closed = [key for key in CLOSED if key != "top5" or any(key in row.figures for row in rows)]
    headings = ("method", *(CLOSED[key] for key in closed), "published", "open AUROC", "open OSCR")
    return Grid(
        f"Table 1: {title}",
        (*headings, "behind ours", "parameters", "seconds", "reason"),
        tuple(_cells(row, closed) for row in rows),
        tuple(notes),
    )


def _training(result: BenchResult) -> str:
    epochs, limit = result.facts["epochs"], result.facts["limit"]
    whose = "their own recipes' epochs" if epochs is None else f"at most {epochs} epochs"
    cut = "" if limit is None else f"; at most {limit} images of each fold"
    return f"Networks are trained for {whose}, in {result.facts['precision']}{cut}."


def _cells(row: RowResult, closed: Sequence[str]) -> tuple[str, ...]:
    published, behind = row.published.get("macro_auc"), behind_ours(row)
    return (
        *figure_row(row.name, row.figures, closed),
        ABSENT if published is None else f"{published:.4f}",
        cell(row.figures.get("open_auroc")),
        cell(row.figures.get("open_oscr")),
        ABSENT if behind is None else f"{behind['top1']:+.3f} (p = {behind['p']:.4f})",
        ABSENT if row.parameters is None else f"{row.parameters:,}",
        ABSENT if row.seconds is None else f"{row.seconds:.1f}",
        row.reason,
    )
