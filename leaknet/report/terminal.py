"""Figures of a run and answers for image files as tables on the terminal; answers as CSV."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

from leakcache.errors import DataError
from leakcache.names import cell, visible
from leaknet.calibration.decision import KNOWN, OUTSIDE, UNKNOWN
from leaknet.evaluation.open_set import OpenSummary
from leaknet.evaluation.summary import Summary
from leaknet.scoring.predict import ImageScore
from leaknet.scoring.score_run import RunScores

_CLOSED = {
    "top1": "top-1",
    "top5": "top-5",
    "balanced": "balanced",
    "macro_auc": "macro AUC",
    "ece": "ECE",
}
_OPEN = {
    "auroc": "AUROC",
    "eer": "EER",
    "fpr95": "FPR@95",
    "aupr": "AUPR",
    "ovl": "OVL",
    "oscr": "OSCR",
}
_NOTE = "in brackets: 95 % bootstrap interval over images, resampled by prompt group"


def print_scores(scores: RunScores) -> None:
    """Closed-set and open-set figures with their 95 % intervals."""
    counts = ", ".join(f"{count} {fold}" for fold, count in scores.images.items())
    _print(Text(f"run {scores.run} (preset {scores.preset}, seed {scores.seed}; {counts})"))
    tables = [_closed_table(scores)] + ([_open_table(scores)] if scores.open else [])
    for table in tables:
        _print_wide(table)
    flat = any("no spread" in str(text) for t in tables for c in t.columns for text in c.cells)
    _print(Text(_NOTE + ("; no spread: all resamples gave this value" if flat else ""), "dim"))


def _print(line: Text) -> None:
    Console(highlight=False).print(line, soft_wrap=True)


def _closed_table(scores: RunScores) -> Table:
    rows = {f"{name}, test": result for name, result in scores.closed.items()}
    rows["prototype, validation"] = scores.validation
    if len(scores.branches) > 1:
        weights = scores.fusion["weights"]
        for name, results in scores.branches.items():
            rows[f"{name} alone (weight {weights[name]:.2f}), test"] = results["closed"]
    columns = {key: _CLOSED[key] for key in _CLOSED if key in scores.validation.metrics}
    table = _figure_table("Closed set: which known generator?", "scorer, fold", columns)
    for name, result in rows.items():
        table.add_row(name, *(_cell(result.metrics[key]) for key in columns))
    return table


def _figure_table(title: str, first: str, headings: Mapping[str, str]) -> Table:
    table = Table(title=title, title_justify="left")
    table.add_column(first)
    for heading in headings.values():
        table.add_column(heading, justify="right")
    return table


def _open_table(scores: RunScores) -> Table:
    table = _figure_table("Open set: known or unknown?", "detector, unknown generator", _OPEN)
    for result in scores.open.values():
        for name, row in _open_rows(result).items():
            cells = (_cell(row[key]) for key in _OPEN)
            table.add_row(Text(f"{result.detector}, {name}"), *cells)
    return table


def _open_rows(result: OpenSummary) -> dict[str, dict[str, Summary]]:
    return {"all": result.pooled} | (result.generators if len(result.generators) > 1 else {})


def _cell(figure: Summary) -> Text:
    text = Text(f"{figure.value:.3f}")
    if figure.interval:
        low, high = figure.interval
        text.append("\n(no spread)" if low == high else f"\n({low:.2f}-{high:.2f})", "dim")
    return text


# Answers for image files.

_STYLES = {KNOWN: "green", UNKNOWN: "yellow", OUTSIDE: "magenta"}
_SHOWN = 3
_COLUMNS = (
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
    results: Sequence[ImageScore],
    alpha: float,
    calibration: Mapping[str, Any],
    run: str,
    *,
    verbose: bool = False,
) -> None:
    """One line an image: answer, likeliest generator, prediction set; the answering run first.

    Args:
        results: in the order to print.
        alpha: the false-alarm rate that was asked for.
        calibration: `Calibration.as_dict(alpha)`.
        run: the run that answers, in words.
        verbose: add p-value, likelihood ratio, raw scores and reason.
    """
    _print(Text(f"run {run}"))
    stability = any(result.stability for result in results)
    headings = ["answer", "likeliest", f"not excluded at {alpha:g}"]
    headings += ["stable"] if stability else []
    headings += ["p", "log10 LR", "raw scores", "because"] if verbose else []
    table = Table(*headings, "image", box=None, pad_edge=False, header_style="dim")
    for result in results:
        if result.reason:
            cells = [Text("not scored", "red"), *[Text("")] * (len(headings) - 1)]
            table.add_row(*cells, Text(visible(f"{result.path}: {result.reason}")))
            continue
        cells = _cells(result)
        cells += [Text(_stable(result))] if stability else []
        cells += _details(result) if verbose else []
        table.add_row(*cells, Text(visible(result.path)))
    _print_wide(table)
    if any(not result.reason for result in results):
        _print(Text(_footnote(alpha, calibration), "dim"))


def _print_wide(table: Table) -> None:
    """Print a table at its natural width: a row stays one line, however narrow the terminal."""
    console = Console(highlight=False)
    wide = console.options.update(width=100_000)
    width = Measurement.get(console, wide, table).maximum
    console = Console(highlight=False, width=max(width, 1))
    with console.capture() as capture:
        console.print(table)
    for line in capture.get().splitlines():
        click.echo(line.rstrip())


def _cells(result: ImageScore) -> list[Text]:
    members = list(result.prediction_set or ())
    more = len(members) - _SHOWN
    text = ", ".join(members[:_SHOWN]) + (f" and {more} more" if more > 0 else "")
    return [
        Text(result.answer or "", _STYLES.get(result.verdict or "", "default")),
        Text(f"{result.generator} {100 * (result.probability or 0):.0f} %"),
        Text(text or "none"),
    ]


def _stable(result: ImageScore) -> str:
    stable = result.stability
    return f"{stable.same} of {len(stable.variants)}" if stable else ""


def _details(result: ImageScore) -> list[Text]:
    ratio = (result.log10_lr or {}).get(result.generator or "", float("nan"))
    scores = ", ".join(f"{name} {value:.4g}" for name, value in (result.scores or {}).items())
    return [
        Text(f"{result.p_value:.3f}"),
        Text(f"{ratio:+.1f} ({result.verbal})"),
        Text(scores),
        Text(result.explanation or ""),
    ]


def _footnote(alpha: float, calibration: Mapping[str, Any]) -> str:
    alarms = calibration["false_alarms"]
    low, high = alarms["given_this_calibration"]
    images, groups = calibration["images"], calibration["groups"]
    text = (
        f"unknown: p ≤ {alpha:g}. p is the rank of the image's score among {images} calibration "
        f"images of the known generators ({groups} prompt groups). Expected false alarms: "
        f"{alpha:.1%} on average over such calibration sets, {low:.1%} to {high:.1%} with this "
        f"one, up to {alarms['exchangeable_groups']:.1%} if images of one prompt are alike. "
        "Probabilities compare the known generators only."
    )
    if alpha < calibration["smallest_p"]:
        text += (
            f" No image can be called unknown at {alpha:g}: with {images} calibration images the "
            f"smallest possible p is {calibration['smallest_p']:.2g}."
        )
    return text


def write_images_csv(results: Sequence[ImageScore], path: Path) -> None:
    """Write answers as CSV, one row an image.

    Columns: those of `ImageScore`; the prediction set joined by |, likeliest first; stable as
    7/8; then one raw score per detector under its name, and per generator probability:NAME and
    log10_lr:NAME.

    Raises:
        DataError: the file cannot be written.
    """
    rows = [_csv_row(result) for result in results]
    longest = max(rows, key=len)
    try:
        # Names may hold bytes that are no UTF-8.
        with path.open("w", encoding="utf-8", errors="backslashreplace", newline="") as file:
            writer = csv.DictWriter(file, [*map(cell, longest), "reason"], restval="")
            writer.writeheader()
            writer.writerows(_safe(row) for row in rows)
    except OSError as error:
        raise DataError(
            f"{path}: cannot be written ({error.strerror}); name another --csv"
        ) from error


def _safe(row: Mapping[str, Any]) -> dict[str, Any]:
    return {cell(k): cell(v) if isinstance(v, str) else v for k, v in row.items()}


def _csv_row(result: ImageScore) -> dict[str, Any]:
    if result.reason:
        return {"path": result.path, "reason": result.reason}
    row: dict[str, Any] = {name: getattr(result, name) for name in _COLUMNS}
    row["prediction_set"] = "|".join(result.prediction_set or ())
    row["stable"] = _stable(result).replace(" of ", "/")
    row |= result.scores or {}
    row |= {f"probability:{name}": value for name, value in (result.probabilities or {}).items()}
    return row | {f"log10_lr:{name}": value for name, value in (result.log10_lr or {}).items()}
