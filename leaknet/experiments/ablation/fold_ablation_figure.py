"""An ablation as a figure: a panel for each measure, a line of marks for each row."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from leaknet.experiments.ablation.fold_ablation_measures import MEASURES
from leaknet.experiments.ablation.fold_ablation_tables import shown
from leaknet.experiments.ablation.tables import AblationResult, RowResult
from leaknet.report.fold_report_markup import Html, element
from leaknet.report.svg import Axis, Frame

_STYLE = Path(__file__).with_name("figure.css")
_DRAWN = ("top1", "macro_auc", "open_auroc", "control_auroc")
_PANEL, _ROW, _HEAD, _FOOT = 240, 24, 34, 26
_CHARACTER = 5.9  # width of one in a row's name, in the units of the drawing


def draw_figure(result: AblationResult) -> str:
    """The figure as an SVG file that needs nothing but itself; equal results, equal bytes."""
    keys = [key for key in _DRAWN if key in shown(result)] or ["top1"]
    room = 16 + round(_CHARACTER * max(len(_label(row)) for row in result.rows))
    height = _HEAD + _ROW * len(result.rows) + 54
    words = _legend(result)
    widest = max(1.1 * len(result.ablation.title), len(words))
    width = max(room + _PANEL * len(keys), 24 + round(_CHARACTER * widest))
    panels = [_panel(result, key, room if number == 0 else 14) for number, key in enumerate(keys)]
    places = [0, *(room + _PANEL * number - 14 for number in range(1, len(keys)))]
    return element(
        "svg",
        element("style", Html(_STYLE.read_text(encoding="utf-8"))),
        element("rect", class_="paper", width=width, height=height + _FOOT),
        element("text", result.ablation.title, class_="title", x=12, y=20),
        [frame.panel(x, _HEAD, *marks) for x, (frame, marks) in zip(places, panels, strict=True)],
        element("text", words, x=12, y=height + 12),
        viewBox=f"0 0 {width} {height + _FOOT}",
        width=width,
        role="img",
        aria_label=result.ablation.title,
        xmlns="http://www.w3.org/2000/svg",
    )


def _label(row: RowResult) -> str:
    return f"{row.row.name} (no figures)" if row.reason else row.row.name


def _panel(result: AblationResult, key: str, left: int) -> tuple[Frame, list[Html | None]]:
    rows = list(reversed(result.rows))  # the axis points upwards, the table downwards
    ticks = tuple((float(i), _label(row) if left > 14 else "") for i, row in enumerate(rows))
    frame = Frame(
        Axis.spanning(MEASURES[key], *_range(rows, key)),
        Axis("", -0.5, len(rows) - 0.5, ticks),
        width=left + _PANEL - 14,
        height=_ROW * len(rows) + 54,
        left=left,
    )
    marks: list[Html | None] = []
    for place, row in enumerate(rows):
        marks += _marks(frame, row, key, float(place))
    return frame, marks


def _marks(frame: Frame, row: RowResult, key: str, place: float) -> list[Html | None]:
    marks: list[Html | None] = []
    if key in row.row.published:
        marks.append(frame.dots(np.array([[row.row.published[key], place]]), "theirs"))
    if key in row.figures:
        found = row.figures[key]
        if found.interval is not None:
            marks.append(frame.line(found.interval, [place, place], "ours"))
        marks.append(frame.dots(np.array([[one, place] for one in found.seeds]), "seed"))
        marks.append(frame.dots(np.array([[found.value, place]]), "ours"))
    return marks


def _range(rows: list[RowResult], key: str) -> tuple[float, float]:
    """From the least to the largest mark, with a margin, within 0 and 1."""
    values = [row.row.published[key] for row in rows if key in row.row.published]
    for row in rows:
        if key in row.figures:
            found = row.figures[key]
            values += [*found.seeds, *(found.interval or ())]
    if not values:
        return 0.0, 1.0
    margin = max(0.01, 0.06 * (max(values) - min(values)))
    return max(0.0, min(values) - margin), min(1.0, max(values) + margin)


def _legend(result: AblationResult) -> str:
    words = "Large dot: mean over seeds; small ones: seeds; line: 95 % interval over images."
    if any(row.row.published for row in result.rows):
        words += " Square: as published, on other data."
    return words
