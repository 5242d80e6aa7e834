"""What an ablation found, row by row, and its layout as JSON."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from leaknet.config import RunConfig, config_to_table
from leaknet.evaluation.summary import Summary
from leaknet.experiments.ablation.spec import COMPARED, KEPT_APART, MEASURES, Ablation, Row
from leaknet.experiments.attention_modes import WARNING
from leaknet.experiments.tables import LEGEND, Grid, cell, json_ready, markdown
from leaknet.files import replace_file, write_text
from leaknet.report.html import Html, element
from leaknet.report.svg import Axis, Frame


@dataclass(frozen=True)
class RowResult:
    """One row.

    Attributes:
        row: what was asked.
        reason: why there are no figures; empty where there are.
        figures: by key of `MEASURES`.
        classes: one-vs-rest area of each generator; empty for attention modes.
        difference: from the reference row, by key of `COMPARED`; empty where there is none.
        settings: what of the run differs from the common settings, in words.
        notes: what must be read with the figures.
        runs: folders, one a seed.
        trained: how many of them were trained now, or trained further.
        parameters: of the network.
        training_seconds: all that its runs ever took to train.
        seconds: what the row took now.
    """

    row: Row
    reason: str = ""
    figures: Mapping[str, Summary] = field(default_factory=dict)
    classes: Mapping[str, Summary] = field(default_factory=dict)
    difference: Mapping[str, Summary] = field(default_factory=dict)
    settings: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    runs: tuple[Path, ...] = ()
    trained: int = 0
    parameters: int | None = None
    training_seconds: float = 0.0
    seconds: float = 0.0

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON: figures on top, `sd`, `interval` and `seeds` beside them."""
        return {
            "name": self.row.name,
            **{key: one.value for key, one in self.figures.items()},
            "sd": {key: one.sd for key, one in self.figures.items()},
            "interval": {key: one.interval for key, one in self.figures.items()},
            "seeds": {key: list(one.seeds) for key, one in self.figures.items()},
            "published": dict(self.row.published),
            "difference": {key: _plain(one) for key, one in self.difference.items()},
            "per_class_auc": {name: one.value for name, one in self.classes.items()},
            "settings": list(self.settings),
            "notes": list(self.notes),
            "parameters": self.parameters,
            "trained": self.trained,
            "training_seconds": self.training_seconds,
            "seconds": self.seconds,
            "runs": [str(run) for run in self.runs],
            "reason": self.reason,
        }


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
            "rows": [row.as_dict() for row in self.rows],
        }


def _plain(summary: Summary) -> dict[str, Any]:
    return {"value": summary.value, "sd": summary.sd, "interval": summary.interval}


# An ablation as tables in words: figures beside the published ones, differences, generators.

PUBLISHED = (
    "Published figures are the paper's, on WILD with the autoencoder of Stable Diffusion 2.1: "
    "other images and other generators. Compare orders and distances of rows, not values."
)


def ablation_tables(result: AblationResult) -> list[Grid]:
    """The table itself; then, where there are such, differences and generators."""
    grids = [_main(result)]
    if any(row.difference for row in result.rows):
        grids.append(_differences(result))
    if any(row.classes for row in result.rows):
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
    beside = [key for key in keys if any(key in row.row.published for row in result.rows)]
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
    cells = [row.row.name]
    for key in keys:
        cells.append(cell(row.figures[key]) if key in row.figures else "–")
        if key in beside:
            cells.append(_number(row.row.published.get(key)))
    count = "–" if row.parameters is None else f"{row.parameters / 1e6:.1f} M"
    remarks = "no figures, see below" if row.reason else "; ".join(row.notes)
    training = "–" if row.reason else f"{row.training_seconds:.1f} s"
    return (*cells, count, training, f"{row.seconds:.1f} s", remarks)


def _notes(result: AblationResult, published: bool) -> tuple[str, ...]:
    first, last = result.base.train.seed, result.base.train.seed + result.seeds - 1
    seeds = f"seed {first}" if first == last else f"seeds {first} to {last}"
    notes = [
        *(f"{row.row.name}: {row.reason}" for row in result.rows if row.reason),
        *result.ablation.notes,
        LEGEND,
        *([PUBLISHED] if published else []),
        *([WARNING] if any(row.row.score.attention for row in result.rows) else []),
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
            (
                row.row.name,
                *(_signed(row.difference[key]) if key in row.difference else "–" for key in keys),
            )
            for row in rows
        ),
        (
            "Seed by seed, on the same images: mean ± sd over seeds (95 % interval over images). "
            "The interval does not cover the seeds: read it beside the sd.",
        ),
    )


def _generators(result: AblationResult) -> Grid:
    rows = [row for row in result.rows if row.classes]
    names = list(dict.fromkeys(name for row in rows for name in row.classes))
    return Grid(
        "Area of each generator against the rest",
        ("row", *names),
        tuple((row.row.name, *(_brief(row.classes.get(name)) for name in names)) for row in rows),
        ("Mean over seeds ± sd.",),
    )


def _brief(summary: Summary | None) -> str:
    if summary is None:
        return "–"
    return f"{summary.value:.3f}" + ("" if summary.sd is None else f" ± {summary.sd:.3f}")


def _signed(summary: Summary) -> str:
    text = f"{summary.value:+.3f}" + ("" if summary.sd is None else f" ± {summary.sd:.3f}")
    if summary.interval is not None:
        text += f" ({summary.interval[0]:+.3f} to {summary.interval[1]:+.3f})"
    return text


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"


# An ablation as a figure: a panel for each measure, a line of marks for each row.

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


# The files of an ablation: JSON, Markdown, Parquet and a figure, each whole or absent.


def write_results(result: AblationResult, out: Path) -> list[str]:
    """Write `KEY.json`, `KEY.md`, `KEY.svg` and, where pyarrow is installed, `KEY.parquet`.

    Args:
        result: a table, whole or in part.
        out: folder.

    Returns:
        Names of the files.

    Raises:
        RunError: the folder cannot be written to.
    """
    key = result.ablation.key
    content = json_ready(result.as_dict())
    text = json.dumps(content, indent=1, ensure_ascii=False, allow_nan=False)
    write_text(out / f"{key}.json", text + "\n")
    write_text(out / f"{key}.svg", draw_figure(result) + "\n")
    figure = f"\n![{result.ablation.title}]({key}.svg)\n"
    write_text(out / f"{key}.md", markdown(ablation_tables(result)) + figure)
    names = [f"{key}.json", f"{key}.md", f"{key}.svg"]
    return [*names, f"{key}.parquet"] if _write_parquet(result, out / f"{key}.parquet") else names


def parquet_rows(result: AblationResult) -> list[dict[str, Any]]:
    """One flat record a row: every measure with `_sd`, `_low`, `_high`, `_seeds`, `_published`."""
    return [_flat(row) for row in result.as_dict()["rows"]]


def _flat(row: dict[str, Any]) -> dict[str, Any]:
    names = ("parameters", "trained", "training_seconds", "seconds", "reason")
    flat = {"row": row["name"], **{name: row[name] for name in names}}
    for name in ("settings", "notes", "runs"):
        flat[name] = row[name]
    for key in MEASURES:
        low, high = row["interval"].get(key) or (None, None)
        flat[key] = row.get(key)
        flat[f"{key}_sd"] = row["sd"].get(key)
        flat[f"{key}_low"], flat[f"{key}_high"] = low, high
        flat[f"{key}_seeds"] = row["seeds"].get(key)
        flat[f"{key}_published"] = row["published"].get(key)
        flat[f"{key}_difference"] = row["difference"].get(key, {}).get("value")
    return flat


def _write_parquet(result: AblationResult, path: Path) -> bool:
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError:
        return False
    numbers = [
        (f"{key}{end}", pyarrow.float64())
        for key in MEASURES
        for end in ("", "_sd", "_low", "_high", "_published", "_difference")
    ]
    lists = [(f"{key}_seeds", pyarrow.list_(pyarrow.float64())) for key in MEASURES]
    words = [(name, pyarrow.list_(pyarrow.string())) for name in ("settings", "notes", "runs")]
    plain = [
        ("row", pyarrow.string()),
        ("reason", pyarrow.string()),
        ("parameters", pyarrow.int64()),
        ("trained", pyarrow.int64()),
        ("training_seconds", pyarrow.float64()),
        ("seconds", pyarrow.float64()),
    ]
    schema = pyarrow.schema([*plain, *numbers, *lists, *words])
    table = pyarrow.Table.from_pylist(parquet_rows(result), schema=schema)
    replace_file(path, lambda partial: parquet.write_table(table, partial))
    return True
