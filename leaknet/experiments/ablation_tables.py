"""An ablation as tables, figure and files: beside published values, differences, generators."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from leaknet.config import RunConfig, config_to_table
from leaknet.experiments.ablation_spec import COMPARED, KEPT_APART, MEASURES, Ablation
from leaknet.experiments.controls import WARNING
from leaknet.experiments.tables import ABSENT, LEGEND, Grid, RowResult, cell, write_table
from leaknet.metrics.summary import picked
from leaknet.report.svg import Axis, Frame, Html, element


@dataclass(frozen=True)
class AblationResult:
    """A whole table, or as much of it as there is yet.

    Attributes:
        ablation: what was asked.
        base: the common settings; their seed is the first one.
        seeds: how many.
        cache: folder of the main cache.
        fingerprint: of that cache.
        encoded: images that went through an encoder for this table.
        rows: in the order of the table.
    """

    ablation: Ablation
    base: RunConfig
    seeds: int
    cache: Path
    fingerprint: str
    encoded: int
    rows: tuple[RowResult, ...]

    @property
    def trained(self) -> int:
        """Runs that were trained now."""
        return sum(row.trained for row in self.rows)

    @property
    def reused(self) -> int:
        """Uses of runs that were finished before."""
        return sum(len(row.runs) - row.trained for row in self.rows)

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        first = self.base.train.seed
        return {
            "ablation": self.ablation.key,
            "title": self.ablation.title,
            "cache": str(self.cache),
            "fingerprint": self.fingerprint,
            "base": config_to_table(self.base),
            "seeds": list(range(first, first + self.seeds)),
            "reference": self.ablation.reference,
            "encoded": self.encoded,
            "trained": self.trained,
            "reused": self.reused,
            "rows": [row_dict(row) for row in self.rows],
        }


def row_dict(row: RowResult) -> dict[str, Any]:
    """A row as plain values for JSON."""
    compared = {key: row.difference[key] for key in COMPARED if key in row.difference}
    return {
        "name": row.name,
        **row.figures_dict(),
        "published": dict(row.published),
        "difference": picked(
            compared, lambda one: {"value": one.value, "sd": one.sd, "interval": one.interval}
        ),
        "per_class_auc": picked(row.per_class_auc, lambda one: one.value),
        "settings": list(row.settings),
        "notes": list(row.notes),
        "parameters": row.parameters,
        "trained": row.trained,
        "training_seconds": row.seconds or 0.0,
        "seconds": row.elapsed,
        "runs": [str(run) for run in row.runs],
        "reason": row.reason,
    }


def parquet_row(row: RowResult) -> dict[str, Any]:
    """A flat record: every measure with `_sd`, `_low`, `_high`, `_seeds`, `_published`."""
    found = row_dict(row)
    names = ("parameters", "trained", "training_seconds", "seconds", "reason")
    record = {"row": row.name, **{name: found[name] for name in names}}
    record |= {name: found[name] for name in ("settings", "notes", "runs")}
    record |= row.record(list(MEASURES))
    for key in MEASURES:
        record[f"{key}_published"] = row.published.get(key)
        record[f"{key}_difference"] = found["difference"].get(key, {}).get("value")
    return record


def write_results(result: AblationResult, out: Path) -> list[str]:
    """Write `KEY.json`, `.md`, `.svg` and `.parquet`; returns and raises as `write_table`."""
    records = [parquet_row(row) for row in result.rows]
    figure = draw_figure(result.ablation.title, result.rows, shown(result))
    grids = ablation_tables(result)
    return write_table(out, result.ablation.key, result.as_dict(), grids, records, figure)


PUBLISHED = (
    "Published figures are the paper's, on WILD with the autoencoder of Stable Diffusion 2.1: "
    "other images and other generators. Compare orders and distances of rows, not values."
)


def ablation_tables(result: AblationResult) -> list[Grid]:
    """The table itself; then, where there are such, differences and generators."""
    grids = [_main(result)]
    if any(row.difference for row in result.rows):
        grids.append(_differences(result))
    if any(row.per_class_auc for row in result.rows):
        grids.append(_generators(result))
    return grids


def summary_line(result: AblationResult) -> str:
    """What was done for this table, in one sentence."""
    return (
        f"{result.encoded} images encoded, {result.trained} runs trained, {result.reused} taken "
        "as they were"
    )


def shown(result: AblationResult) -> list[str]:
    """Keys of the measures that the table shows, in order: those that any row has."""
    keys = [key for key in MEASURES if key not in KEPT_APART]
    return [key for key in keys if any(key in row.figures for row in result.rows)]


def _main(result: AblationResult) -> Grid:
    keys = shown(result)
    beside = [key for key in keys if any(key in row.published for row in result.rows)]
    headings = ["row"]
    for key in keys:
        headings += [MEASURES[key], *(["published"] if key in beside else [])]
    return Grid(
        result.ablation.title,
        (*headings, "parameters", "training", "now", "remarks"),
        tuple(_row(row, keys, beside) for row in result.rows),
        _notes(result, bool(beside)),
    )


def _row(row: RowResult, keys: list[str], beside: list[str]) -> tuple[str, ...]:
    cells = [row.name]
    for key in keys:
        cells.append(cell(row.figures.get(key)))
        if key in beside:
            cells.append(_number(row.published.get(key)))
    count = ABSENT if row.parameters is None else f"{row.parameters / 1e6:.1f} M"
    remarks = "no figures, see below" if row.reason else "; ".join(row.notes)
    training = ABSENT if row.seconds is None else f"{row.seconds:.1f} s"
    return (*cells, count, training, f"{row.elapsed:.1f} s", remarks)


def _notes(result: AblationResult, published: bool) -> tuple[str, ...]:
    first, last = result.base.train.seed, result.base.train.seed + result.seeds - 1
    seeds = f"seed {first}" if first == last else f"seeds {first} to {last}"
    notes = [
        *(f"{row.name}: {row.reason}" for row in result.rows if row.reason),
        *result.ablation.notes,
        LEGEND,
        *([PUBLISHED] if published else []),
        *([WARNING] if any(row.score.attention for row in result.ablation.rows) else []),
        f"Cache {result.cache} ({result.fingerprint[:12]}), preset {result.base.preset}, {seeds}. "
        f"{summary_line(result)}. `training`: all that the row's runs ever took; `now`: what the "
        "row took in this call.",
    ]
    return tuple(notes)


def _differences(result: AblationResult) -> Grid:
    keys = [key for key in COMPARED if any(key in row.difference for row in result.rows)]
    rows = [row for row in result.rows if row.difference]
    return Grid(
        f"Difference from “{result.ablation.reference}”",
        ("row", *(MEASURES[key] for key in keys)),
        tuple(
            (row.name, *(cell(row.difference.get(key), signed=True) for key in keys))
            for row in rows
        ),
        (
            "Seed by seed, on the same images: mean ± sd over seeds (95 % interval over images). "
            "The interval does not cover the seeds: read it beside the sd.",
        ),
    )


def _generators(result: AblationResult) -> Grid:
    rows = [row for row in result.rows if row.per_class_auc]
    names = list(dict.fromkeys(name for row in rows for name in row.per_class_auc))
    return Grid(
        "Area of each generator against the rest",
        ("row", *names),
        tuple(
            (row.name, *(cell(row.per_class_auc.get(name), interval=False) for name in names))
            for row in rows
        ),
        ("Mean over seeds ± sd.",),
    )


def _number(value: float | None) -> str:
    return ABSENT if value is None else f"{value:.3f}"


_STYLE = Path(__file__).with_name("ablation") / "figure.css"
_DRAWN = ("top1", "macro_auc", "open_auroc", "control_auroc")
_PANEL, _ROW, _HEAD, _FOOT = 240, 24, 34, 26
_CHARACTER = 5.9  # width of one in a row's name, in the units of the drawing


def draw_figure(title: str, rows: Sequence[RowResult], measures: Sequence[str]) -> str:
    """A self-contained SVG file of some measures; equal results give equal bytes."""
    keys = [key for key in _DRAWN if key in measures] or ["top1"]
    margin = 16 + round(_CHARACTER * max(len(_label(row)) for row in rows))
    height = _HEAD + _ROW * len(rows) + 54
    words = _figure_legend(rows)
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


def _figure_legend(rows: Sequence[RowResult]) -> str:
    words = "Large dot: mean over seeds; small ones: seeds; line: 95 % interval over images."
    if any(row.published for row in rows):
        words += " Square: as published, on other data."
    return words
