"""ROC curves of several generators in one chart, with a legend of their areas."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from leaknet.metrics.roc import Roc
from leaknet.report.html import Html
from leaknet.report.svg import Axis, Frame

COLOURS = 7
POINTS = 300
"""Points of a curve at most; beyond that it is thinned evenly along its length."""


@dataclass(frozen=True)
class Curves:
    """A chart and its legend.

    Attributes:
        drawing: the chart.
        legend: name, area and class of the line of each curve, largest area first.
    """

    drawing: Html
    legend: list[tuple[str, float, str]]


def roc_curves(
    curves: Mapping[str, Roc], areas: Mapping[str, float], axes: tuple[str, str], description: str
) -> Curves:
    """One curve a generator; among too many for colours, only the best and the worst stand out."""
    frame = Frame(Axis.fraction(axes[0]), Axis.fraction(axes[1]), width=400, height=330)
    order = sorted(curves, key=lambda name: areas[name], reverse=True)
    if len(order) <= COLOURS:
        classes = {name: f"c{i}" for i, name in enumerate(curves)}
    else:
        classes = dict.fromkeys(curves, "faint") | {order[0]: "c0", order[-1]: "c1"}
    marks = [frame.line([0, 1], [0, 1], "chance")]
    for name in sorted(curves, key=lambda name: classes[name] != "faint"):
        rows = _thinned(curves[name])
        marks.append(
            frame.line(curves[name].fpr[0][rows], curves[name].tpr[0][rows], classes[name])
        )
    legend = [(name, areas[name], classes[name]) for name in order]
    return Curves(frame.draw(description, *marks), legend)


def _thinned(curve: Roc) -> np.ndarray:
    along = curve.fpr[0] + curve.tpr[0]
    if len(along) <= POINTS:
        return np.arange(len(along))
    return np.unique(np.searchsorted(along, np.linspace(0.0, along[-1], POINTS)))
