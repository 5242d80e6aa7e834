"""An ablation as tables and files: figures beside the published ones, differences, generators."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from leaknet.config import RunConfig, config_to_table
from leaknet.evaluation.summary import picked
from leaknet.experiments.ablation.figure import draw_figure
from leaknet.experiments.ablation.spec import COMPARED, KEPT_APART, MEASURES, Ablation
from leaknet.experiments.attention_modes import WARNING
from leaknet.experiments.rows import RowResult
from leaknet.experiments.tables import ABSENT, LEGEND, Grid, cell, write_table


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
