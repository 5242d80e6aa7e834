"""A bench as tables: one block of methods for each step, as the paper's Table 1 has them."""

from __future__ import annotations

from leaknet.experiments.benchmark.tables import BenchResult, BenchRow
from leaknet.experiments.tables import LEGEND, NO_INTERVAL, Grid, cell

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
