"""`leak train`: fit the prototype model to a cache; `leak demo`: everything on the sample."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from leaknet.commands import options as opt
from leaknet.commands.base import (
    LeakCommand,
    Settings,
    cache_folder,
    emit,
    next_steps,
    remember,
    sample_root,
)
from leaknet.commands.preflight import check_trainable

if TYPE_CHECKING:
    import torch

    from leakcache.dataset.index import DatasetIndex
    from leakcache.store.cache import Cache
    from leaknet.config import RunConfig
    from leaknet.scoring.score_run import ValidationScores
    from leaknet.training.parallel import Parallel
    from leaknet.training.run_folder import EpochRecord
    from leaknet.training.train import TrainResult


@click.command(cls=LeakCommand)
@opt.cache
@opt.run
@opt.recipe(preset="best")
@click.option("--seed", type=opt.SEED, help="Same as --set train.seed=N.")
@click.option("--epochs", type=int, help="Same as --set train.epochs=N.")
@opt.log
@opt.fill
@opt.device
@opt.memory
@opt.json
@click.pass_obj
def train(settings: Settings, /, **options: Any) -> None:
    """Train on the training fold; the validation fold selects the epoch.

    The run folder stands alone: config.toml, model.safetensors, scorers.safetensors,
    classes.json, history.jsonl, embeddings.h5. After a kill or Ctrl-C the same command goes on.
    JSON keys: run, epochs, resumed_after, validation.top1, validation.macro_auc, ...,
    branches.weights.BRANCH, branches.BRANCH.validation.*, branches.BRANCH.best.epoch,
    branches.BRANCH.best.loss, ... with BRANCH latents or statistics.

    \b
    Example:
      leak train
      leak train --preset paper --seed 1 --set head.prototypes=6
      leak train --log tensorboard && tensorboard --logdir runs
      torchrun --nproc-per-node 8 $(which leak) train --preset paper
    """
    config = configured(options)
    folder = cache_folder(options["cache"], settings.caches)
    check_trainable(folder)

    from leakcache.device import resolve_device
    from leakcache.progress import silent
    from leakcache.store.build import ensure_columns
    from leakcache.store.cache import open_current
    from leaknet.calibration.calibration import calibration_limits
    from leaknet.training.parallel import Parallel, from_first
    from leaknet.training.run_folder import run_name
    from leaknet.training.train import train as fit

    cache = open_current(folder / "closed")
    val = cache.rows("val")
    if limits := calibration_limits(cache.groups[val], cache.labels[val], opt.ALPHA):
        click.echo(f"warning: {limits}", err=True)
    run = Path(options["run"] or settings.runs / run_name(folder.name, config))
    device = resolve_device(options["device"])
    parallel = Parallel.join(device)
    from_first(
        parallel,
        lambda: ensure_columns([cache], config.columns(), str(device), fill=options["fill"]),
    )
    if parallel and parallel.rank > 0:
        cache.store.load()
        fit(config, cache, run, device=str(device), track=silent, parallel=parallel)
        return
    result, scores = _fit(config, cache, run, device, parallel, options["log"])
    remember(settings.runs, run)
    if options["as_json"]:
        emit(_as_dict(result, scores))
    else:
        _print_result(result, scores)
        next_steps(["score", "--kde", "--run", str(run)], ["score", "IMAGE", "--run", str(run)])


def _fit(
    config: RunConfig,
    cache: Cache,
    run: Path,
    device: torch.device,
    parallel: Parallel | None,
    log: str | None,
) -> tuple[TrainResult, ValidationScores]:
    """Train and prepare the run, with every epoch on stderr and in the tracker `log`."""
    from leaknet.config import config_to_table
    from leaknet.scoring.score_run import prepare_run
    from leaknet.tracking import open_tracker
    from leaknet.training.train import train as fit

    with open_tracker(log, run) as tracker:
        if tracker:
            tracker.config(config_to_table(config))

        def on_epoch(epoch: EpochRecord) -> None:
            _print_epoch(epoch)
            if tracker:
                tracker.epoch(epoch)

        result = fit(config, cache, run, device=str(device), on_epoch=on_epoch, parallel=parallel)
        scores = prepare_run(run, cache, device)
        if tracker:
            tracker.metrics(scores.as_dict())
    return result, scores


def configured(options: dict[str, Any]) -> RunConfig:
    """The settings that --preset, --config, --set, --seed and --epochs stand for.

    Raises:
        ConfigError: a setting is unknown, of the wrong type or out of range.
    """
    from leaknet.config import load_config, preset

    config = (
        load_config(Path(options["config"])) if options["config"] else preset(options["preset"])
    )
    flags = [
        f"train.{key}={options[key]}" for key in ("seed", "epochs") if options.get(key) is not None
    ]
    return config.with_overrides([*options["overrides"], *flags])


def _print_epoch(epoch: EpochRecord) -> None:
    chosen = " (best so far)" if epoch.best else ""
    click.echo(
        f"{epoch.branch}, epoch {epoch.epoch}: loss {epoch.loss:.4f}, "
        f"validation macro AUC {epoch.val_macro_auc:.4f}, "
        f"top-1 {epoch.val_top1:.4f}{chosen}",
        err=True,
    )


def _as_dict(result: TrainResult, scores: ValidationScores) -> dict[str, Any]:
    found = scores.as_dict()
    for name, epoch in result.best.items():
        found["branches"][name]["best"] = vars(epoch)
    return {
        "run": str(result.run.path),
        "epochs": len(result.epochs),
        "resumed_after": result.resumed_after,
        **found,
    }


def _print_result(result: TrainResult, scores: ValidationScores) -> None:
    weights = scores.fusion["weights"]
    lines = [("validation", scores.validation, f"{len(result.epochs)} epochs")]
    if len(scores.branches) > 1:
        lines += [
            (f"  {name} alone", found["validation"], f"weight {weights[name]:.3f}")
            for name, found in scores.branches.items()
        ]
    click.echo(str(result.run.path))
    for name, closed, more in lines:
        top1, macro_auc = (closed.metrics[key].value for key in ("top1", "macro_auc"))
        click.echo(f"{name:<18} top-1 {top1:.3f}, macro AUC {macro_auc:.3f}  ({more})")


PROMPTS = {"train": 8, "val": 8, "test": 5}
"""Prompts that are read of each fold, a third, but enough of validation to call an image unknown;
of the unknown generators those of validation and test."""
SETTINGS = ("train.epochs=5", "statistics.degraded=false")
"""Changes of the preset `best`: an epoch of so few images is three steps, and degraded copies take
half of the time."""


@click.command(cls=LeakCommand)
@opt.json
@click.pass_obj
def demo(settings: Settings, /, as_json: bool) -> None:
    """Run cache, train, score and report on part of the bundled sample, in a minute.

    Six small latent diffusion models are known generators and two are unknown; the cause of each
    signal leak is documented (data/README.md). Less than half of the prompts are read, by the
    preset best without degraded copies. The figures show that the pipeline works. They do not hold
    for real generators.
    JSON keys: those of `leak score`, and cache, report, seconds.

    \b
    Example:
      leak demo
    """
    from leakcache.dataset.index import read_index
    from leakcache.device import quick_precision, resolve_device
    from leakcache.encoder.autoencoder import Encoder
    from leakcache.store.build import build_cache
    from leaknet.config import preset
    from leaknet.detectors import GlobalKDE
    from leaknet.report.report import write_page
    from leaknet.report.terminal import print_scores
    from leaknet.scoring.score_run import prepare_run, score_run
    from leaknet.training.train import train

    start = time.monotonic()
    cache, run = settings.caches / "demo", settings.runs / "demo"
    device = resolve_device("auto")
    precision = quick_precision(device)
    encoder = Encoder.load("bundled", device=str(device), precision=precision)
    index = some_prompts(read_index(sample_root()))
    config = preset("best").with_overrides(SETTINGS)
    columns = config.columns()
    closed = build_cache(index, encoder, cache / "closed", columns=columns).cache
    unknown = build_cache(index, encoder, cache / "open", split="open", columns=columns).cache
    train(config, closed, run, device=str(device))
    prepare_run(run, closed, device)
    scores = score_run(run, closed, [unknown], [GlobalKDE], device)
    page = write_page([run])
    for parent, folder in ((settings.caches, cache), (settings.runs, run)):
        remember(parent, folder)
    seconds = time.monotonic() - start
    if as_json:
        places = {"cache": str(cache), "report": str(page), "seconds": round(seconds, 1)}
        emit({**scores.as_dict(), **places})
        return
    print_scores(scores)
    _print_places(cache, run, page, seconds)
    next_steps(
        ["score", str(sample_root() / unknown.paths[0])],
        ["report", str(run)],
        ["cache", "build", "--data", "FOLDER", "--split", "closed"],
    )


def some_prompts(index: DatasetIndex) -> DatasetIndex:
    """The images of `PROMPTS`, of all generators."""
    kept = {
        fold: sorted({record.group for record in index.records if record.fold == fold})[:count]
        for fold, count in PROMPTS.items()
    }
    kept["open"] = [*kept["val"], *kept["test"]]
    return replace(index, records=tuple(r for r in index.records if r.group in kept[r.fold]))


def _print_places(cache: Path, run: Path, page: Any, seconds: float) -> None:
    click.echo(f"cache   {cache}")
    click.echo(f"run     {run} (weights, scorers, embeddings, metrics.json, scores.csv)")
    click.echo(f"report  {page}")
    click.echo(f"{seconds:.0f} s in all")
