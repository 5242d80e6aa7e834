"""An ablation as tables in words: figures beside the published ones, differences, generators."""

from __future__ import annotations

from leaknet.evaluation.summary import Summary
from leaknet.experiments.ablation.fold_ablation_measures import COMPARED, KEPT_APART, MEASURES
from leaknet.experiments.ablation.tables import AblationResult, RowResult
from leaknet.experiments.attention_modes import WARNING
from leaknet.experiments.tables import LEGEND, Grid, cell

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
