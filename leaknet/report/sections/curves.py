"""Lines of several generators or methods in one chart, with a legend of their values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from leaknet.metrics.roc import Roc
from leaknet.report.html import Html
from leaknet.report.svg import Axis, Frame, Values

COLOURS = 7
POINTS = 300
"""Points of a curve at most; beyond that it is thinned evenly along its length."""


@dataclass(frozen=True)
class Curves:
    """A chart and its legend.

    Attributes:
        drawing: the chart.
        legend: name, value and class of each line, largest value first.
    """

    drawing: Html
    legend: list[tuple[str, float, str]]


def curves(
    frame: Frame,
    lines: Mapping[str, tuple[Values, Values]],
    values: Mapping[str, float],
    description: str,
    *under: Html,
) -> Curves:
    """One line a name; among too many for colours, only the best and the worst stand out.

    Args:
        frame: of the chart.
        lines: x and y by name.
        values: by which the names are ranked.
        description: text alternative of the chart.
        under: marks below the lines.
    """
    order = sorted(lines, key=lambda name: values[name], reverse=True)
    if len(order) <= COLOURS:
        classes = {name: f"c{i}" for i, name in enumerate(lines)}
    else:
        classes = dict.fromkeys(lines, "faint") | {order[0]: "c0", order[-1]: "c1"}
    above = sorted(lines, key=lambda name: classes[name] != "faint")
    marks = [frame.line(*lines[name], classes[name]) for name in above]
    legend = [(name, values[name], classes[name]) for name in order]
    return Curves(frame.draw(description, *under, *marks), legend)


def roc_curves(
    found: Mapping[str, Roc], areas: Mapping[str, float], axes: tuple[str, str], description: str
) -> Curves:
    """One ROC curve a generator, ranked by area."""
    frame = Frame(Axis.fraction(axes[0]), Axis.fraction(axes[1]), width=400, height=330)
    lines: dict[str, tuple[Values, Values]] = {}
    for name, curve in found.items():
        rows = _thinned(curve)
        lines[name] = curve.fpr[0][rows], curve.tpr[0][rows]
    return curves(frame, lines, areas, description, frame.line([0, 1], [0, 1], "chance"))


def _thinned(curve: Roc) -> np.ndarray:
    along = curve.fpr[0] + curve.tpr[0]
    if len(along) <= POINTS:
        return np.arange(len(along))
    return np.unique(np.searchsorted(along, np.linspace(0.0, along[-1], POINTS)))
