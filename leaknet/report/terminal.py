"""The scores of a run as tables on the terminal."""

from __future__ import annotations

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from leaknet.evaluation.fold_leaknet_judge import ClosedResult, OpenResult
from leaknet.metrics import OpenScores
from leaknet.scoring.score_run import RunScores

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
