"""Scores as tables on the terminal, and image scores as CSV."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from leaknet.judge import ClosedResult, OpenResult
from leaknet.metrics import OpenScores
from leaknet.predict import ImageScore
from leaknet.scoring import RunScores

_CLOSED = {"top1": "top-1", "balanced": "balanced", "macro_auc": "macro AUC", "ece": "ECE"}
_OPEN = {
    "auroc": "AUROC",
    "eer": "EER",
    "fpr95": "FPR@95",
    "aupr": "AUPR",
    "ovl": "OVL",
    "oscr": "OSCR",
}


def print_scores(scores: RunScores) -> None:
    """Closed and open figures with their 95 % intervals."""
    console = Console()
    counts = ", ".join(f"{count} {fold}" for fold, count in scores.images.items())
    console.print(f"run {scores.run} (preset {scores.preset}, seed {scores.seed}; {counts})")
    console.print(_closed_table(scores))
    if scores.open:
        console.print(_open_table(scores))
    console.print("[dim]in brackets: 95 % interval over images, clustered by prompt group[/dim]")


def _closed_table(scores: RunScores) -> Table:
    table = Table(title="Closed set: which known generator?", title_justify="left")
    table.add_column("scorer, fold")
    for heading in _CLOSED.values():
        table.add_column(heading, justify="right")
    rows = {f"{name}, test": result for name, result in scores.closed.items()}
    rows["prototype, validation"] = scores.validation
    for name, result in rows.items():
        table.add_row(name, *(_closed_cell(result, key) for key in _CLOSED))
    return table


def _closed_cell(result: ClosedResult, key: str) -> str:
    return _with_interval(getattr(result.scores, key), result.intervals.get(key))


def _open_table(scores: RunScores) -> Table:
    table = Table(title="Open set: known or never seen?", title_justify="left")
    table.add_column("detector, unknown generator")
    for heading in _OPEN.values():
        table.add_column(heading, justify="right")
    for result in scores.open.values():
        for name, row, intervals in _open_rows(result):
            cells = (_with_interval(getattr(row, key), intervals.get(key)) for key in _OPEN)
            table.add_row(escape(f"{result.detector}, {name}"), *cells)
    return table


def _open_rows(result: OpenResult) -> list[tuple[str, OpenScores, dict[str, list[float]]]]:
    ends = result.intervals.as_dict() if result.intervals else {}
    report = result.report
    rows = [("all", report.pooled, ends)]
    if len(report.generators) > 1:
        rows += [(n, one, ends.get(n, {})) for n, one in report.generators.items()]
    return rows


def _with_interval(value: float, ends: list[float] | None) -> str:
    text = f"{value:.3f}"
    return f"{text} [dim]({ends[0]:.2f}-{ends[1]:.2f})[/dim]" if ends else text


def print_images(results: Sequence[ImageScore], alpha: float) -> None:
    """One row an image: verdict, likeliest generator, p-value, raw scores."""
    console = Console()
    table = Table()
    for heading in ("image", "verdict", "most like", "probability", "p", "raw scores"):
        table.add_column(heading, overflow="fold")
    for result in results:
        if result.reason:
            table.add_row(escape(result.path), "[red]not scored[/red]", escape(result.reason))
            continue
        raw = "  ".join(f"{name} {value:.4g}" for name, value in (result.scores or {}).items())
        table.add_row(
            escape(result.path),
            "known generator" if result.known else "[yellow]unknown generator[/yellow]",
            escape(result.generator),
            f"{result.probability:.3f}",
            f"{result.p_value:.3f}",
            raw,
        )
    console.print(table)
    console.print(
        f"[dim]unknown: p ≤ {alpha:g}, so that about {alpha:.0%} of images of the known generators "
        "are called unknown; the probability is among the known generators only[/dim]"
    )


def write_images_csv(results: Sequence[ImageScore], path: Path) -> None:
    """The same as CSV, one column per raw score."""
    names = sorted({name for result in results for name in result.scores or {}})
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["path", "known", "generator", "probability", "p_value", *names, "reason"])
        for r in results:
            raw = [(r.scores or {}).get(name, "") for name in names]
            values = (
                ["", "", "", ""] if r.reason else [r.known, r.generator, r.probability, r.p_value]
            )
            writer.writerow([r.path, *values, *raw, r.reason])
