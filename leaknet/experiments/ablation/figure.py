"""An ablation as a figure: a panel for each measure, a line of marks for each row."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from leaknet.experiments.ablation.spec import MEASURES
from leaknet.experiments.rows import RowResult
from leaknet.report.html import Html, element
from leaknet.report.svg import Axis, Frame

_STYLE = Path(__file__).with_name("figure.css")
_DRAWN = ("top1", "macro_auc", "open_auroc", "control_auroc")
_PANEL, _ROW, _HEAD, _FOOT = 240, 24, 34, 26
_CHARACTER = 5.9  # width of one in a row's name, in the units of the drawing


def draw_figure(title: str, rows: Sequence[RowResult], measures: Sequence[str]) -> str:
    """A self-contained SVG file of some measures; equal results give equal bytes."""
    keys = [key for key in _DRAWN if key in measures] or ["top1"]
    margin = 16 + round(_CHARACTER * max(len(_label(row)) for row in rows))
    height = _HEAD + _ROW * len(rows) + 54
    words = _legend(rows)
    widest = max(1.1 * len(title), len(words))
    width = max(margin + _PANEL * len(keys), 24 + round(_CHARACTER * widest))
    panels = [_panel(rows, key, margin if number == 0 else 14) for number, key in enumerate(keys)]
    lefts = [0, *(margin + _PANEL * number - 14 for number in range(1, len(keys)))]
    return element(
        "svg",
        element("style", Html(_STYLE.read_text(encoding="utf-8"))),
        element("rect", class_="paper", width=width, height=height + _FOOT),
        element("text", title, class_="title", x=12, y=20),
        [frame.panel(x, _HEAD, *marks) for x, (frame, marks) in zip(lefts, panels, strict=True)],
        element("text", words, x=12, y=height + 12),
        viewBox=f"0 0 {width} {height + _FOOT}",
        width=width,
        role="img",
        aria_label=title,
        xmlns="http://www.w3.org/2000/svg",
    )


def _label(row: RowResult) -> str:
    return f"{row.name} (no figures)" if row.reason else row.name


def _panel(table: Sequence[RowResult], key: str, left: int) -> tuple[Frame, list[Html | None]]:
    rows = list(reversed(table))  # the axis points upwards, the table downwards
    ticks = tuple((float(i), _label(row) if left > 14 else "") for i, row in enumerate(rows))
    frame = Frame(
        Axis.spanning(MEASURES[key], *_range(rows, key)),
        Axis("", -0.5, len(rows) - 0.5, ticks),
        width=left + _PANEL - 14,
        height=_ROW * len(rows) + 54,
        left=left,
    )
    marks: list[Html | None] = []
    for height, row in enumerate(rows):
        marks += _marks(frame, row, key, float(height))
    return frame, marks


def _marks(frame: Frame, row: RowResult, key: str, y: float) -> list[Html | None]:
    marks: list[Html | None] = []
    if key in row.published:
        marks.append(frame.dots(np.array([[row.published[key], y]]), "theirs"))
    if key in row.figures:
        found = row.figures[key]
        if found.interval is not None:
            marks.append(frame.line(found.interval, [y, y], "ours"))
        marks.append(frame.dots(np.array([[one, y] for one in found.seeds]), "seed"))
        marks.append(frame.dots(np.array([[found.value, y]]), "ours"))
    return marks


def _range(rows: list[RowResult], key: str) -> tuple[float, float]:
    """From the least to the largest mark, with a margin, within 0 and 1."""
    values = [row.published[key] for row in rows if key in row.published]
    for row in rows:
        if key in row.figures:
            found = row.figures[key]
            values += [*found.seeds, *(found.interval or ())]
    if not values:
        return 0.0, 1.0
    margin = max(0.01, 0.06 * (max(values) - min(values)))
    return max(0.0, min(values) - margin), min(1.0, max(values) + margin)


def _legend(rows: Sequence[RowResult]) -> str:
    words = "Large dot: mean over seeds; small ones: seeds; line: 95 % interval over images."
    if any(row.published for row in rows):
        words += " Square: as published, on other data."
    return words
