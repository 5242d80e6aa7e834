"""Figures of a run and answers for image files as tables on the terminal; answers as CSV."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import click
from rich.console import Console
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

from leakcache.names import visible
from leaknet.calibration.decision import FAMILY, KNOWN, OUTSIDE, UNKNOWN, p_words
from leaknet.metrics.detection import OpenSummary
from leaknet.metrics.summary import Summary
from leaknet.scoring.answers import Answer, Answers
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
        print_wide(table)
    flat = any("no spread" in str(text) for t in tables for c in t.columns for text in c.cells)
    print_note(_NOTE + ("; no spread: all resamples gave this value" if flat else ""))


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
            table.add_row(Text(visible(f"{result.detector}, {name}")), *cells)
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

_STYLES = {KNOWN: "green", FAMILY: "cyan", UNKNOWN: "yellow", OUTSIDE: "magenta"}
_SHOWN = 3


def print_images(answers: Answers, run: str, *, verbose: bool = False) -> None:
    """One line an image: answer, likeliest generator, prediction set; the answering run first.

    Args:
        answers: in the order to print.
        run: the run that answers, in words.
        verbose: add p-value, likelihood ratio, raw scores and reason.
    """
    _print(Text(visible(f"run {run}")))
    stability = any(answer.stability for answer in answers)
    headings = ["answer", "likeliest", f"not excluded at {answers.alpha:g}"]
    headings += ["stable"] if stability else []
    says = any(answer.origin for answer in answers)
    headings += ["the file says"] if says else []
    headings += ["conformal p", "log10 LR", "raw scores", "because"] if verbose else []
    table = Table(*headings, "image", box=None, pad_edge=False, header_style="dim")
    for result in answers:
        if result.reason:
            cells = [Text("not scored", "red"), *[Text("")] * (len(headings) - 1)]
            table.add_row(*cells, Text(visible(f"{result.path}: {result.reason}")))
            continue
        cells = _cells(result)
        cells += [Text(_stable(result))] if stability else []
        cells += [Text(visible(_says(result)))] if says else []
        cells += _details(result, answers.calibration["smallest_p"]) if verbose else []
        table.add_row(*cells, Text(visible(result.path)))
    print_wide(table)
    if any(not answer.reason for answer in answers):
        print_note(_footnote(answers.alpha, answers.calibration))


def print_note(text: str) -> None:
    """Print a line below a table."""
    _print(Text(text, "dim"))


def print_wide(table: Table) -> None:
    """Print a table at its natural width: a row stays one line, however narrow the terminal."""
    console = Console(highlight=False)
    wide = console.options.update(width=100_000)
    width = Measurement.get(console, wide, table).maximum
    console = Console(highlight=False, width=max(width, 1))
    with console.capture() as capture:
        console.print(table)
    for line in capture.get().splitlines():
        click.echo(line.rstrip())


def _cells(result: Answer) -> list[Text]:
    members = list(result.prediction_set or ())
    more = len(members) - _SHOWN
    text = ", ".join(members[:_SHOWN]) + (f" and {more} more" if more > 0 else "")
    answer = result.answer or ""
    if result.verdict == FAMILY:
        answer += f" {100 * (result.family_probability or 0):.0f} %"
    return [
        Text(visible(answer), _STYLES.get(result.verdict or "", "default")),
        Text(f"{visible(str(result.generator))} {100 * (result.probability or 0):.0f} %"),
        Text(visible(text) or "none"),
    ]


def _stable(result: Answer) -> str:
    stable = result.stability
    return f"{stable.same} of {len(stable.variants)}" if stable else ""


def _says(result: Answer) -> str:
    words = result.origin.words if result.origin else ""
    return f"{words} (disagrees: {result.conflict})" if result.conflict else words


def _details(result: Answer, smallest_p: float) -> list[Text]:
    ratio = (result.log10_lr or {}).get(result.generator or "", float("nan"))
    scores = ", ".join(f"{name} {value:.4g}" for name, value in (result.scores or {}).items())
    return [
        Text(p_words(result.p_value or 0.0, smallest_p).removeprefix("p ").removeprefix("= ")),
        Text(f"{ratio:+.1f} ({result.verbal})"),
        Text(scores),
        Text(visible(result.explanation or "")),
    ]


def _footnote(alpha: float, calibration: Mapping[str, Any]) -> str:
    alarms, smallest = calibration["false_alarms"], calibration["smallest_p"]
    low, high = alarms["given_this_calibration"]
    images, groups = calibration["images"], calibration["groups"]
    text = (
        f"unknown: p ≤ {alpha:g}. p is a conformal p-value: the rank of the image's score among "
        f"{images} calibration images of the known generators ({groups} prompt groups), at least "
        f"1/{images + 1} = {smallest:.2g}. "
    )
    if (limit := calibration.get("outside_below")) is not None:
        text += f"Outside the calibrated range: a score of {limit:.4g} at most. "
    if alpha < smallest:
        text += f"So no image can be called unknown at {alpha:g}: add validation images. "
    else:
        text += (
            f"Expected false alarms: {alpha:.1%} on average over such calibration sets, "
            f"{low:.1%} to {high:.1%} with this one, up to {alarms['exchangeable_groups']:.1%} if "
            "images of one prompt are alike. "
        )
    return text + "Probabilities compare the known generators only."
