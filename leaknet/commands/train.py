"""`leak train`: fit the prototype model to a cache."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from leaknet.commands import options as opt
from leaknet.commands.defaults import LeakCommand, Settings, cache_folder, remember
from leaknet.commands.output import emit, next_steps
from leaknet.commands.preflight import check_trainable

if TYPE_CHECKING:
    import torch

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
