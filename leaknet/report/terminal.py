"""The scores of a run as tables on the terminal."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from leakcache.errors import DataError
from leaknet.calibration.decision import KNOWN, UNKNOWN
from leaknet.evaluation.closed_set import ClosedResult, OpenResult
from leaknet.metrics import OpenScores
from leaknet.scoring.predict import ImageScore
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


# Answers for image files as a table on the terminal, and as CSV.

_STYLES = {KNOWN: "green", UNKNOWN: "yellow"}
_PLAIN = (
    "path",
    "verdict",
    "answer",
    "explanation",
    "generator",
    "probability",
    "known",
    "p_value",
    "verbal",
)


def print_images(
    results: Sequence[ImageScore], alpha: float, calibration: Mapping[str, Any]
) -> None:
    """One row an image: answer, reason, and the raw scores behind them.

    Args:
        results: in the order to print.
        alpha: the false-alarm rate that was asked for.
        calibration: `Calibration.as_dict(alpha)`.
    """
    console = Console()
    table = Table()
    for heading in ("image", "answer", "because", "raw scores"):
        table.add_column(heading, overflow="fold")
    for result in results:
        table.add_row(*_cells(result))
    console.print(table)
    console.print(f"[dim]{escape(_footnote(alpha, calibration))}[/dim]")


def _cells(result: ImageScore) -> list[str]:
    if result.reason:
        return [escape(result.path), "[red]not scored[/red]", escape(result.reason)]
    style = _STYLES.get(result.verdict or "", "default")
    return [
        escape(result.path),
        f"[{style}]{escape(result.answer or '')}[/{style}]",
        escape(result.explanation or ""),
        escape(_raw(result)),
    ]


def _raw(result: ImageScore) -> str:
    ratio = (result.log10_lr or {}).get(result.generator or "", float("nan"))
    parts = [
        f"p {result.p_value:.3f}",
        f"{result.generator} {result.probability:.2f}",
        f"log10 LR {ratio:+.1f} ({result.verbal})",
        *(f"{name} {value:.4g}" for name, value in (result.scores or {}).items()),
    ]
    if result.stability:
        parts.append(f"{result.stability.same} of {len(result.stability.variants)} stable")
    return ", ".join(parts)


def _footnote(alpha: float, calibration: Mapping[str, Any]) -> str:
    alarms = calibration["false_alarms"]
    low, high = alarms["given_this_calibration"]
    text = (
        f"unknown: p ≤ {alpha:g}. Of images of the known generators at most {alpha:.1%} are called "
        f"unknown on average, {low:.1%} to {high:.1%} given the {calibration['images']} images "
        f"that calibrate, and at most {alarms['exchangeable_groups']:.1%} however much images of "
        f"one prompt ({calibration['groups']} prompts) are alike. Probability and LR are among the "
        "known generators only."
    )
    if alpha < calibration["smallest_p"]:
        text += (
            f" No image can be called unknown at {alpha:g}: with so few calibrating images p is "
            f"{calibration['smallest_p']:.2g} at least."
        )
    return text


def write_images_csv(results: Sequence[ImageScore], path: Path) -> None:
    """The same as CSV, one row an image.

    Columns: those of `ImageScore`; the set's members joined by |; stable as 7/8; then one raw
    score per detector under its name, and per generator probability:NAME and log10_lr:NAME.

    Raises:
        DataError: the file cannot be written.
    """
    rows = [_csv_row(result) for result in results]
    longest = max(rows, key=len)
    try:
        with path.open("w", encoding="utf-8", newline="") as file:
            writer = csv.DictWriter(file, [*longest, "reason"], restval="")
            writer.writeheader()
            writer.writerows(rows)
    except OSError as error:
        raise DataError(
            f"{path}: cannot be written ({error.strerror}); name another --csv"
        ) from error


def _csv_row(result: ImageScore) -> dict[str, Any]:
    if result.reason:
        return {"path": result.path, "reason": result.reason}
    row: dict[str, Any] = {name: getattr(result, name) for name in _PLAIN}
    row["prediction_set"] = "|".join(result.prediction_set or ())
    stable = result.stability
    row["stable"] = f"{stable.same}/{len(stable.variants)}" if stable else ""
    row |= result.scores or {}
    row |= {f"probability:{name}": value for name, value in (result.probabilities or {}).items()}
    return row | {f"log10_lr:{name}": value for name, value in (result.log10_lr or {}).items()}
