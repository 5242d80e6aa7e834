"""Figures of the open set: score histograms and operating curves of the reported detector."""

from __future__ import annotations

import math

import numpy as np

from leaknet.metrics.roc import roc
from leaknet.report.fold_report_markup import Html, element, join
from leaknet.report.html import cell, charts, table
from leaknet.report.metric_labels import plain, whole_percent
from leaknet.report.run_data import ScoredRun
from leaknet.report.sections.fold_report_verdicts import ALPHA, threshold
from leaknet.report.svg import Axis, Frame

_COLOURS = 7


def score_histograms(run: ScoredRun) -> Html:
    """Scores of the known beside those of each unknown generator, with the threshold."""
    known = run.scores(run.detector, "test")
    limit = threshold(run)
    panels = []
    for name in run.unknown:
        panels.append((name, _histogram(run, name, known, limit)))
    caption = join(
        element("span", class_="swatch known"),
        f"known test images ({len(known):,}) ",
        element("span", class_="swatch unknown"),
        "the unknown generator named above. Dashed: the threshold below which an image is called "
        f"unknown, set on validation images so that about {whole_percent(ALPHA)} of the known "
        "are. The outermost bins hold everything beyond them.",
    )
    return charts(*panels, caption=caption)


def _histogram(run: ScoredRun, name: str, known: np.ndarray, limit: float | None) -> Html:
    unknown = run.scores(run.detector, "open", name)
    low, high = _range(known, unknown)
    edges = np.linspace(low, high, _bins(len(unknown)) + 1)
    shares = [_shares(scores, edges) for scores in (known, unknown)]
    top = max(float(s.max()) for s in shares)
    frame = Frame(Axis.spanning("score", low, high), Axis.spanning("share of images", 0.0, top))
    marks = [
        frame.filled_steps(edges, shares[0], "fill known"),
        frame.filled_steps(edges, shares[1], "fill unknown"),
    ]
    if limit is not None:
        marks += frame.vertical(limit, "called unknown", "known")
    return frame.draw(f"Scores of known images and of {name}", *marks)


def _bins(images: int) -> int:
    """Few enough that most bins hold several images."""
    return min(30, max(8, round(2 * math.sqrt(images))))


def _range(known: np.ndarray, unknown: np.ndarray) -> tuple[float, float]:
    """A range that shows the known in detail, however far away a few images lie."""
    start, end = np.quantile(known, (0.01, 0.99))
    spread = end - start
    low, high = np.quantile(np.concatenate([known, unknown]), (0.01, 0.99))
    return float(max(low, start - 4 * spread)), float(min(high, end + 4 * spread))


def _shares(scores: np.ndarray, edges: np.ndarray) -> np.ndarray:
    counts, _ = np.histogram(np.clip(scores, edges[0], edges[-1]), edges)
    shares: np.ndarray = counts / len(scores)
    return shares


def roc_curves(run: ScoredRun) -> Html:
    """One curve an unknown generator, and a legend with its area."""
    frame = Frame(
        Axis.share("unknown images accepted"),
        Axis.share("known images accepted"),
        width=400,
        height=330,
    )
    known = run.scores(run.detector, "test")
    classes = _curve_classes(run)
    marks = [frame.line([0, 1], [0, 1], "chance")]
    for name in sorted(run.unknown, key=lambda name: classes[name] != "faint"):
        curve = roc(known, run.scores(run.detector, "open", name))
        marks.append(frame.line(curve.fpr[0], curve.tpr[0], classes[name]))
    drawing = frame.draw("ROC curve of each unknown generator", *marks)
    return element(
        "figure",
        element("div", drawing, _curve_legend(run, classes), class_="beside"),
        element(
            "figcaption",
            "Every threshold is one point of a curve: how much of the known it lets in, and how "
            "much of the unknown with it. The diagonal is guessing.",
        ),
    )


def _curve_classes(run: ScoredRun) -> dict[str, str]:
    """A colour each; where there are too many, only the best and the worst."""
    if len(run.unknown) <= _COLOURS:
        return {name: f"c{i}" for i, name in enumerate(run.unknown)}
    order = sorted(run.unknown, key=run.area)
    return dict.fromkeys(run.unknown, "faint") | {order[0]: "c1", order[-1]: "c0"}


def _curve_legend(run: ScoredRun, classes: dict[str, str]) -> Html:
    rows = []
    for name in sorted(run.unknown, key=run.area, reverse=True):
        rows.append(
            [
                element("th", element("span", class_=f"key {classes[name]}"), name, scope="row"),
                cell(plain(run.area(name))),
            ]
        )
    return table(["Unknown generator", "AUROC"], rows, class_="curve-legend")
