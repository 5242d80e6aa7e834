"""The head of the page: what was asked, what came out, and what guessing would have got."""

from __future__ import annotations

from leaknet.report.html import Html, counted, element, enumerate_words, join, paragraph, strong
from leaknet.report.metric_labels import (
    CLOSED,
    MISSING,
    OPEN,
    Figure,
    Measure,
    against_chance,
    interval_text,
    pair,
)
from leaknet.report.run_data import ScoredRun

_BY_KEY = {measure.key: measure for measure in (*CLOSED, *OPEN)}


def head(run: ScoredRun) -> Html:
    """Title, one line of identity, questions, answers and the figures that matter most."""
    return element(
        "header",
        element("h1", "Which generator made it?"),
        _identity(run),
        element("div", _closed_answer(run), _open_answer(run), class_="answers"),
        element("div", _tiles(run), class_="tiles"),
        id="summary",
    )


def _identity(run: ScoredRun) -> Html:
    parts = [
        f"run {run.name}",
        f"preset {run.metrics['preset']}",
        f"seed {run.metrics['seed']}",
        counted(len(run.classes), "known generator"),
        f"model {run.metrics['model'][:12]}",
    ]
    return paragraph(" · ".join(parts), class_="identity")


def _closed_answer(run: ScoredRun) -> Html:
    top1 = Figure.of(run.closed["prototype"], "top1")
    measure = _BY_KEY["top1"]
    images = run.metrics["images"]["test"]
    return element(
        "div",
        element("h2", "Asked of known generators"),
        paragraph(
            f"Shown {counted(images, 'image')} that it was not trained on, does the run name the "
            f"right one of {len(run.classes)} generators?"
        ),
        paragraph(
            strong(f"It does for {measure.show(top1.value)}{_between(measure, top1)}: "),
            f"{against_chance(top1, run.chance)}. ",
            f"Always naming the commonest generator gets {measure.show(run.chance)}.",
        ),
    )


def _open_answer(run: ScoredRun) -> Html:
    title = element("h2", "Asked of generators never trained on")
    if run.open is None:
        text = "Nothing was asked: this run has not been scored against unknown generators."
        return element("div", title, paragraph(text))
    auroc, measure = Figure.of(run.open, "auroc"), _BY_KEY["auroc"]
    accepted = Figure.of(run.open, "fpr95")
    return element(
        "div",
        title,
        paragraph(
            f"Shown {counted(run.metrics['images']['open'], 'image')} from "
            f"{counted(len(run.unknown), 'generator')} that it never saw, does the run notice?"
        ),
        paragraph(
            strong(f"AUROC {measure.show(auroc.value)}{_between(measure, auroc)}: "),
            f"{against_chance(auroc, 0.5)}. Of 100 pairs of a known and an unknown image it finds "
            f"the known one in {_out_of_100(auroc)}; a coin finds it in 50. Where 95 % of the "
            f"known are accepted, so are {_BY_KEY['fpr95'].show(accepted.value)} of the unknown. ",
            _not_told(run),
        ),
    )


def _out_of_100(figure: Figure) -> str:
    return MISSING if figure.value is None else f"{100 * figure.value:.0f}"


def _not_told(run: ScoredRun) -> str:
    """Names of the generators whose AUROC may as well be a half."""
    assert run.open is not None
    ends = {name: pair(run.open["interval"].get(name, {}).get("auroc")) for name in run.unknown}
    names = [name for name, interval in ends.items() if interval and interval[0] <= 0.5]
    if not names or len(run.unknown) == 1:
        return ""
    return f"Not told from the known: {enumerate_words(names)}."


def _between(measure: Measure, figure: Figure) -> str:
    ends = interval_text(measure, figure)
    return f" (95 % interval {ends})" if ends else ""


def _tiles(run: ScoredRun) -> list[Html]:
    closed = run.closed["prototype"]
    tiles = [
        _tile(_BY_KEY["top1"], Figure.of(closed, "top1"), run.chance, "named right"),
        _tile(_BY_KEY["macro_auc"], Figure.of(closed, "macro_auc"), 0.5, "known, ranked right"),
    ]
    if run.open is not None:
        tiles += [
            _tile(_BY_KEY["auroc"], Figure.of(run.open, "auroc"), 0.5, "unknown told apart"),
            _tile(
                _BY_KEY["fpr95"],
                Figure.of(run.open, "fpr95"),
                0.95,
                "low is good",
            ),
        ]
    return tiles


def _tile(measure: Measure, figure: Figure, chance: float, what: str) -> Html:
    ends = interval_text(measure, figure)
    return element(
        "div",
        element("span", f"{measure.name}: {what}", class_="what"),
        element("span", measure.show(figure.value), class_="big"),
        element("span", join(ends or "no interval", " · guessing ", measure.show(chance))),
        class_="tile",
    )
