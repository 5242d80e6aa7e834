"""A bench: compared methods under every seed on the same images, as one table for each step."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from leakcache.errors import ConfigError, RunError, ScoringError
from leakcache.files import parse_json
from leaknet.baselines import BASELINES
from leaknet.baselines.base import Baseline, BaselineOptions
from leaknet.checksums import read_text
from leaknet.detectors import Detector
from leaknet.experiments.bench_trial import BaselineTrial, BenchData, run_baseline
from leaknet.experiments.tables import (
    ABSENT,
    LEGEND,
    NO_INTERVAL,
    Grid,
    Job,
    Outcome,
    RowResult,
    cell,
    figure_row,
    run_jobs,
    write_table,
)
from leaknet.experiments.trial import Plan, Training, evaluated, train_on_actors
from leaknet.files import write_json
from leaknet.scoring.run_embeddings import fit_all

IDENTITY = "identity.json"


@dataclass(frozen=True, kw_only=True)
class BenchPlan(Plan):
    """Methods and what all of them share.

    Attributes:
        methods: in the order of the rows.
        options: of every method, but for seed, device and folder.
        on_rows: called after each method with the table so far and with its rows.
    """

    methods: tuple[type[Baseline], ...]
    options: BaselineOptions = field(default_factory=BaselineOptions)
    on_rows: Callable[[BenchResult, tuple[RowResult, ...]], object] = lambda table, rows: None


def methods_named(names: str) -> tuple[type[Baseline], ...]:
    """The methods of a comma-separated list; `all` for every one.

    Raises:
        ConfigError: a name is not among them, or there is none.
    """
    known = {method.name: method for method in BASELINES}
    wanted = [name.strip() for name in names.split(",") if name.strip()]
    if "all" in wanted:
        return BASELINES
    unknown = [name for name in wanted if name not in known]
    if unknown or not wanted:
        raise ConfigError(
            f"--methods {unknown[0] if unknown else names!r}: take some of {', '.join(known)}, "
            "or all"
        )
    return tuple(known[name] for name in dict.fromkeys(wanted))


def run_bench(plan: BenchPlan, data: BenchData) -> BenchResult:
    """Every method of the plan on the same images; a method and seed has `out/METHOD/seedN`.

    A method under a seed that is finished in `plan.out` is not trained again.

    Raises:
        RunError: `plan.out` holds a bench of other images, other epochs or another precision.
    """
    _claim(plan, data)
    facts = _facts(plan, data)
    if plan.pool:
        train_on_actors(plan.pool, _trainings(plan, data))
    jobs = [
        Job(
            tuple(_blank(method.name, step) for step in data.steps),
            partial(_run_method, plan, data, method),
        )
        for method in plan.methods
    ]
    rows = run_jobs(jobs, OURS, lambda rows, new: plan.on_rows(BenchResult(rows, facts), new))
    return BenchResult(rows, facts)


def _blank(method: str, step: int) -> RowResult:
    published = {"macro_auc": PUBLISHED[method][step]} if method in PUBLISHED else {}
    return RowResult(method, step, published=published)


def _trainings(plan: BenchPlan, data: BenchData) -> list[Training]:
    """Every method under every seed."""

    def finish(method: type[Baseline], options: BaselineOptions, device: torch.device) -> None:
        run_baseline(method, data, replace(options, device=device))

    cells = [(method, one) for method in plan.methods for one in _options(plan, method)]
    return [Training(one.folder or plan.out, partial(finish, method, one)) for method, one in cells]


def _options(plan: BenchPlan, method: type[Baseline]) -> list[BaselineOptions]:
    """Of a method under each seed."""
    folder = plan.out / method.name
    return [
        replace(plan.options, seed=seed, device=plan.device, folder=folder / f"seed{seed}")
        for seed in range(plan.seeds)
    ]


def _run_method(plan: BenchPlan, data: BenchData, method: type[Baseline]) -> list[Outcome]:
    trials = [run_baseline(method, data, options) for options in _options(plan, method)]
    detectors, reason = _detectors(trials, plan.kinds)
    return [_outcome(method.name, step, trials, detectors, reason) for step in data.steps]


def _detectors(
    trials: Sequence[BaselineTrial], kinds: tuple[type[Detector], ...]
) -> tuple[list[tuple[Detector, ...]], str]:
    """The fitted detectors of each seed, or why there are none."""
    none: list[tuple[Detector, ...]] = [() for _ in trials]
    if not any(len(one.select("open")) for one in trials[0].steps.values()):
        return none, "no unknown generators: name some with --open"
    try:
        return [tuple(fit_all(kinds, trial.known)) for trial in trials], ""
    except ScoringError as error:
        return none, f"no open figures: {error}"


def _outcome(
    method: str,
    step: int,
    trials: Sequence[BaselineTrial],
    detectors: Sequence[tuple[Detector, ...]],
    reason: str,
) -> Outcome:
    found = evaluated([one.at(step, d) for one, d in zip(trials, detectors, strict=True)])
    closed, opened = found.closed(), found.open()
    figures = {key: one for key, one in closed.metrics.items() if key in METRICS}
    if opened is not None:
        figures |= {
            "open_auroc": opened.pooled["auroc"],
            "open_oscr": opened.pooled["oscr"],
            "open_mean": opened.mean["auroc"],
            "open_worst": opened.worst["auroc"],
        }
    row = replace(
        _blank(method, step),
        reason=reason,
        figures=figures,
        parameters=trials[0].parameters,
        seconds=sum(trial.seconds(step) for trial in trials) / len(trials),
    )
    return Outcome(row, found)


def _claim(plan: BenchPlan, data: BenchData) -> None:
    """Make `out` the folder of this bench, or refuse that of another."""
    out = plan.out
    path = out / IDENTITY
    mine = {
        "images": data.fingerprint,
        "epochs": plan.options.epochs,
        "limit": data.limit,
        "precision": plan.options.precision,
    }
    if not path.is_file():
        out.mkdir(parents=True, exist_ok=True)
        write_json(path, mine)
        return
    try:
        theirs: dict[str, Any] = parse_json(read_text(path))
    except ValueError as error:
        if isinstance(error, RunError):
            raise
        raise RunError(f"{path}: is damaged ({error}); take another --out") from error
    changed = [name for name in mine if theirs.get(name) != mine[name]]
    if changed:
        raise RunError(
            f"{out}: holds a bench with other {' and '.join(changed)}; take another --out"
        )


def _facts(plan: BenchPlan, data: BenchData) -> dict[str, Any]:
    evaluated = next(iter(data.steps.values()))
    return {
        "classes": list(data.classes),
        "images": {
            "train": len(data.train),
            "val": len(data.val),
            "test": len(evaluated.test),
            "open": sum(len(part) for part in evaluated.unknown),
        },
        "steps": list(data.steps),
        "seeds": plan.seeds,
        "epochs": plan.options.epochs,
        "limit": data.limit,
        "precision": plan.options.precision,
        "detector": plan.reported,
    }


OURS = "ours"
"""The method that others are compared with."""

PUBLISHED: dict[str, tuple[float, float, float, float]] = {
    "efficientnet-b4": (0.9710, 0.9440, 0.9182, 0.8734),
    "xception": (0.9532, 0.9336, 0.9283, 0.9077),
    "resnet50": (0.9540, 0.9438, 0.9265, 0.9002),
    "freqnet": (0.9756, 0.9561, 0.9029, 0.8934),
    "susy": (0.9802, 0.9590, 0.9277, 0.9040),
    "latenttracer": (0.9788, 0.9605, 0.9253, 0.8809),
    "occ-clip": (0.9570, 0.9391, 0.9267, 0.9199),
    "npr": (0.8981, 0.8048, 0.7648, 0.7115),
    "latte": (0.9716, 0.9599, 0.9441, 0.9096),
    "ours-paper": (0.9813, 0.9614, 0.9462, 0.9225),
}
"""Macro AUC of the paper's Table 1 on WILD, ten generators, raw and at steps 1 to 3, by row."""

METRICS = ("top1", "top5", "macro_auc", "open_auroc", "open_oscr", "open_mean", "open_worst")
"""`top5`: with more than ten classes; `open_auroc`, `open_oscr`: all unknown images together;
`open_mean`, `open_worst`: AUROC over unknown generators."""


@dataclass(frozen=True)
class BenchResult:
    """All rows so far.

    Attributes:
        rows: by method in order, and within it by step.
        facts: images by fold, classes, seeds, epochs, limit, detector: what all rows share.
    """

    rows: tuple[RowResult, ...]
    facts: dict[str, Any]

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {**self.facts, "rows": [row_dict(row) for row in self.rows]}


def behind_ours(row: RowResult) -> dict[str, Any] | None:
    """Top-1 of ours minus that of the row, and its p value; None where either is missing."""
    found = row.difference.get("top1")
    return None if found is None else {"top1": -found.value, "p": found.p}


def row_dict(row: RowResult) -> dict[str, Any]:
    """A row as plain values for JSON."""
    return {
        "method": row.name,
        "step": row.step,
        **dict.fromkeys(METRICS),
        "parameters": row.parameters,
        "seconds": row.seconds,
        "reason": row.reason,
        "published_macro_auc": row.published.get("macro_auc"),
        "behind_ours": behind_ours(row),
        **row.figures_dict(),
    }


def parquet_row(row: RowResult) -> dict[str, Any]:
    """A flat record: every metric with `_sd`, `_low`, `_high` and `_seeds`."""
    found, behind = row_dict(row), behind_ours(row) or {}
    names = ("method", "step", "parameters", "seconds", "reason", "published_macro_auc")
    return {
        **{name: found[name] for name in names},
        "behind_ours": behind.get("top1"),
        "behind_ours_p": behind.get("p"),
        **row.record(METRICS),
    }


def write_bench(result: BenchResult, out: Path) -> list[str]:
    """Write bench.json, bench.md and bench.parquet; returns and raises as `write_table`."""
    records = [parquet_row(row) for row in result.rows]
    return write_table(out, "bench", result.as_dict(), bench_tables(result), records)


CLOSED = {"top1": "top-1", "top5": "top-5", "macro_auc": "macro AUC"}
_PUBLISHED = (
    "published: macro AUC of the paper's Table 1 on WILD, which is other data with ten "
    "generators: it says how rows stand to one another there, not what to expect here."
)


def bench_tables(result: BenchResult) -> list[Grid]:
    """A table for each step."""
    return [_block(result, step) for step in result.facts["steps"]]


def _block(result: BenchResult, step: int) -> Grid:
    rows = [row for row in result.rows if row.step == step]
    images, classes = result.facts["images"], len(result.facts["classes"])
    notes = [
        f"{images['test']} test images of {classes} generators (guessing: top-1 {1 / classes:.3f}, "
        f"macro AUC .5), {images['open']} of unknown ones; models learn from "
        f"{images['train']} raw images.",
        f"open AUROC: known against unknown images by {result.facts['detector']}, fitted on closed "
        "raw images. seconds: of fitting and embedding.",
        _training(result),
        LEGEND,
        _PUBLISHED,
    ]
    if any(row.difference for row in rows):
        notes.append(
            "behind ours: top-1 of `ours` minus the row's on the same images, mean over seeds; p "
            "by flipping the signs of whole prompt groups."
        )
    if any(one.interval is None for row in rows for one in row.figures.values()):
        notes.append(NO_INTERVAL)
    title = "raw images" if step == 0 else f"degraded, step {step} (WILD-like)"
    closed = [key for key in CLOSED if key != "top5" or any(key in row.figures for row in rows)]
    headings = ("method", *(CLOSED[key] for key in closed), "published", "open AUROC", "open OSCR")
    return Grid(
        f"Table 1: {title}",
        (*headings, "behind ours", "parameters", "seconds", "reason"),
        tuple(_cells(row, closed) for row in rows),
        tuple(notes),
    )


def _training(result: BenchResult) -> str:
    epochs, limit = result.facts["epochs"], result.facts["limit"]
    whose = "their own recipes' epochs" if epochs is None else f"at most {epochs} epochs"
    cut = "" if limit is None else f"; at most {limit} images of each fold"
    return f"Networks are trained for {whose}, in {result.facts['precision']}{cut}."


def _cells(row: RowResult, closed: Sequence[str]) -> tuple[str, ...]:
    published, behind = row.published.get("macro_auc"), behind_ours(row)
    return (
        *figure_row(row.name, row.figures, closed),
        ABSENT if published is None else f"{published:.4f}",
        cell(row.figures.get("open_auroc")),
        cell(row.figures.get("open_oscr")),
        ABSENT if behind is None else f"{behind['top1']:+.3f} (p = {behind['p']:.4f})",
        ABSENT if row.parameters is None else f"{row.parameters:,}",
        ABSENT if row.seconds is None else f"{row.seconds:.1f}",
        row.reason,
    )
