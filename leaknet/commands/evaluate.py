"""`leak evaluate` and `leak ablate`: a recipe over several seeds, and tables of settings."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from leaknet.commands import options as opt
from leaknet.commands.base import LeakCommand, Settings, cache_folder, emit, next_steps
from leaknet.commands.preflight import check_roots, check_trainable

if TYPE_CHECKING:
    import torch

    from leakcache.store.cache import Cache
    from leaknet.experiments.ablation_run import AblationPlan, CachePool
    from leaknet.experiments.ablation_spec import Row
    from leaknet.experiments.ablation_tables import AblationResult
    from leaknet.experiments.evaluation import EvaluationPlan
    from leaknet.experiments.tables import RowResult
    from leaknet.experiments.transfer import Collection


@click.command(cls=LeakCommand)
@opt.cache
@opt.open_roots
@opt.recipe(preset="best")
@click.option("--seeds", type=opt.SEEDS, default=5, help="Trainings a protocol.")
@click.option(
    "--leave-out",
    default="0",
    metavar="N|FILE.toml",
    help="Generators to leave out of training at once, each equally often, 0 for none; or a file "
    "of groups to leave out in turn, as families.toml of a run.",
)
@click.option(
    "--detectors",
    default="kde",
    metavar="NAMES",
    help="Open-set detectors, comma-separated; or all. KDE is reported where it is among them.",
)
@click.option("--table2", is_flag=True, help="The paper's attention modes, with their controls.")
@click.option("--shuffle-labels", is_flag=True, help="Control: train on permuted labels as well.")
@click.option(
    "--audit/--no-audit",
    default=True,
    help="Print what the files give away without any training, as `leak audit` does.",
)
@click.option(
    "--real",
    multiple=True,
    metavar="CLASS",
    help="A class of photographs. [default: real, where there is such a class]",
)
@click.option(
    "--transfer",
    multiple=True,
    metavar="OTHER,...",
    help="Data root or cache of another collection with images of known generators.",
)
@click.option(
    "--same-as",
    multiple=True,
    metavar="FILE.csv|LABEL=NAME",
    help="Known generator of a label in OTHER, where the names differ; or a CSV of both.",
)
@click.option(
    "--steps",
    default="",
    callback=opt.step_numbers(1),
    metavar="LIST",
    help="Also the test images after so many degradation operations, such as 1,2,3.",
)
@opt.alpha
@opt.force
@click.option(
    "--out",
    metavar="DIR",
    help="Runs, evaluation.json and evaluation.md. [default: under the folder of runs]",
)
@opt.log
@opt.fill
@opt.device
@opt.memory
@opt.engine
@opt.json
@click.pass_obj
def evaluate(settings: Settings, /, **options: Any) -> None:
    """Evaluate a recipe: closed set, open sets, generators left out, over several seeds.

    Every figure is a mean over seeds, with its spread and a 95 % interval clustered by prompt
    group. The same command goes on where it was stopped, and trains nothing twice.
    JSON keys: closed.top1, closed.top5 (more than ten classes), closed.balanced, closed.macro_auc,
    closed.ece, closed.mahalanobis.*, validation.*, open.mean.auroc, open.worst.auroc,
    open.GENERATOR.*, leave_out.mean.auroc, leave_out.worst.auroc, leave_out.GENERATOR.*,
    leave_out.folds, detectors.NAME.open.*, detectors.NAME.leave_out.*, answers.all.*,
    answers.leave_out.*, transfer.OTHER.* (top1, top5, macro_auc, right, wrong, unsure, unknown,
    coverage, covered, set_size, auroc, detector_auroc, test.*, recall.GENERATOR.*; of --steps
    transfer.stepN.*), table2.MODE.*, real.*, controls.*, seeds.N.*; `sd` and `interval` in each
    group repeat its layout.

    \b
    Example:
      leak evaluate --preset paper --seeds 3 --leave-out 2
      leak evaluate --open unknown/ --detectors all --table2 --shuffle-labels --out eval/
      leak evaluate --leave-out runs/best/families.toml
      leak evaluate --transfer elsewhere/ --same-as pixart=PixArt-XL --steps 1,2,3
      leak evaluate --seeds 5 --leave-out 2 --engine ray --address auto
    """
    folder = cache_folder(options["cache"], settings.caches)
    check_trainable(folder)
    check_roots(options["open_roots"])

    from leakcache.device import resolve_device
    from leakcache.store.build import ensure_columns, open_set_builds
    from leakcache.store.cache import open_current
    from leaknet.config import config_to_table
    from leaknet.experiments.evaluation_tables import evaluation_tables, write_evaluation
    from leaknet.experiments.protocols import evaluate as run_protocols
    from leaknet.experiments.tables import print_grids
    from leaknet.tracking import open_tracker

    device = resolve_device(options["device"])
    plan = _plan(options, settings.runs, folder.name, device)
    closed = open_current(folder / "closed")
    ensure_columns([closed], plan.config.columns(), str(device), fill=options["fill"])
    builds = open_set_builds(closed, options["open_roots"], str(device))
    plan.out.mkdir(parents=True, exist_ok=True)
    collections = _collections(options, closed, str(device))
    result = run_protocols(plan, closed, [build.cache for build in builds], collections)
    if options["audit"]:
        result = replace(result, audit=_audit(closed, options["open_roots"]))
    write_evaluation(result)
    with open_tracker(options["log"], plan.out) as tracker:
        if tracker:
            tracker.config(config_to_table(plan.config))
            tracker.metrics(result.as_dict())
    if options["as_json"]:
        emit({**result.as_dict(), "out": str(plan.out)})
        return
    print_grids(evaluation_tables(result))
    click.echo(f"{plan.out}: evaluation.json, evaluation.md and the runs")
    next_steps(["report", str(result.facts[0].run)])


def _plan(options: dict[str, Any], runs: Path, cache: str, device: torch.device) -> EvaluationPlan:
    from leaknet.commands.train import configured
    from leaknet.experiments.evaluation import EvaluationPlan
    from leaknet.scoring.run_embeddings import detectors_named
    from leaknet.training.run_folder import run_name

    config = configured(options)
    names = [name.strip() for name in options["detectors"].split(",") if name.strip()]
    if not names:
        raise click.BadParameter("takes one name or more, or all", param_hint="--detectors")
    return EvaluationPlan(
        out=Path(options["out"] or runs / f"evaluation-{run_name(cache, config)}"),
        device=device,
        pool=opt.ray_pool(options),
        config=config,
        seeds=options["seeds"],
        kinds=detectors_named(names),
        leave_out=_left_out(options["leave_out"]),
        real=tuple(options["real"]),
        modes=options["table2"],
        shuffle=options["shuffle_labels"],
        alpha=options["alpha"],
        force=options["force"],
    )


def _left_out(given: str) -> int | Path:
    if given.isdecimal():
        return int(given)
    if not Path(given).is_file():
        raise click.BadParameter(
            f"{given} is neither a number, 0 or more, nor a file", param_hint="--leave-out"
        )
    return Path(given)


def _collections(options: dict[str, Any], closed: Cache, device: str) -> list[Collection]:
    from leaknet.experiments.protocols import collection_cache
    from leaknet.experiments.transfer import Collection, load_collections, read_same_as

    others = [Path(name) for item in options["transfer"] for name in item.split(",") if name]
    encoder = closed.manifest.encoding.encoder(device) if options["steps"] else None
    degraded = [Collection.degraded(closed, step, encoder) for step in options["steps"] if encoder]
    same_as = read_same_as(options["same_as"])
    caches = [collection_cache(other, closed, device) for other in others]
    return load_collections(caches, closed, same_as) + degraded


def _audit(closed: Cache, roots: tuple[str, ...]) -> dict[str, Any]:
    """The controls of the data, on the track that was encoded; nothing where the files are gone."""
    from leakcache.dataset.index import (
        DatasetIndex,
        ImageRecord,
        Reject,
        read_index,
    )
    from leakcache.dataset.records import canonical
    from leakcache.store.build import own_open_set
    from leaknet.audit.audit import audit

    data = Path(closed.manifest.data)
    if not data.exists():
        click.echo(f"{data}: no longer there, so it is not audited", err=True)
        return {}
    prepared = closed.manifest.encoding.preprocessing
    unknown = [read_index(Path(root), open_set=True) for root in roots]
    side = prepared.canonical_size if prepared.canonical else None
    # The images as the cache has them, whatever options the data was read with.
    columns = (closed.paths, closed.labels, closed.groups, closed.folds)
    known = [ImageRecord(*row) for row in zip(*(c.tolist() for c in columns), strict=True)]
    own = own_open_set(closed)
    index = DatasetIndex(
        data,
        canonical([*known, *(own.records if own else ())]),
        tuple(Reject(path, reason) for path, reason in closed.manifest.rejects),
        closed.manifest.layout,
    )
    return audit(index, unknown, canonical=side).as_dict(paths=False)


@click.command(cls=LeakCommand)
@click.argument("table", metavar="TABLE|FILE.toml")
@opt.cache
@click.option(
    "--also",
    multiple=True,
    metavar="DIR",
    help="Folder of another cache of the same images, for rows that need it.",
)
@opt.open_roots
@opt.recipe(preset="paper")
@click.option("--epochs", type=int, help="Same as --set train.epochs=N.")
@click.option("--seeds", type=opt.SEEDS, default=3, help="Trainings a row.")
@opt.force
@click.option(
    "--out",
    metavar="DIR",
    help="Tables, figure and runs. [default: ablations-CACHE under the folder of runs]",
)
@opt.fill
@opt.device
@opt.memory
@opt.engine
@opt.json
@click.pass_obj
def ablate(settings: Settings, /, **options: Any) -> None:
    """Run a table: rows of settings that differ, all from one cache.

    TABLE: table2 (attention modes), table3 (parts of the model), table4 (backbones), table5
    (prototypes), noise, dct, stem, schedule, precision. FILE.toml: rows of your own, see
    docs/ABLATIONS.md. --set, --config and --preset change what is common to all rows.

    Nothing is encoded but images that are new in an open set, and no run is trained twice, in
    whatever table it occurs: the same command goes on where it was stopped. A row that needs
    another cache, of the SDXL autoencoder for instance, takes it from --also. A row that fails
    is listed with its reason. TABLE.md, .json, .svg and .parquet are written after every row.
    JSON keys: encoded, trained, reused, rows[] with name, top1, top5 (more than ten classes),
    macro_auc, open_auroc, open_oscr, open_eer, open_ovl, control_auroc, untrained_auroc, sd.*,
    interval.*, seeds.*, published.*, difference.* (from the reference row),
    per_class_auc.GENERATOR, settings, notes, parameters, trained, training_seconds, seconds, runs,
    reason.

    \b
    Example:
      leak ablate table5 --seeds 3
      leak ablate table3 --also caches/faces-taesdxl-resize256 --open unknown/ --json
      leak ablate table3 --engine ray --actors 4
    """
    folder = cache_folder(options["cache"], settings.caches)
    check_trainable(folder)

    from leaknet.experiments.ablation_run import run_ablation
    from leaknet.experiments.ablation_tables import ablation_tables, summary_line, write_results
    from leaknet.experiments.tables import print_grids

    plan = _ablation_plan(settings, folder, options)
    result = run_ablation(plan, _caches(folder, options))
    files = write_results(result, plan.out)
    if options["as_json"]:
        emit({**result.as_dict(), "out": str(plan.out)})
    else:
        print_grids(ablation_tables(result))
        click.echo(f"{summary_line(result)}; {plan.out}: {', '.join(files)}")
        next_steps(["report"])
    if f"{result.ablation.key}.parquet" not in files:
        click.echo("no Parquet file: pip install 'leaknet[parquet]'", err=True)
    if all(row.reason for row in result.rows):
        sys.exit(1)


def _ablation_plan(settings: Settings, folder: Path, options: dict[str, Any]) -> AblationPlan:
    from leakcache.device import resolve_device
    from leaknet.commands.train import configured
    from leaknet.experiments.ablation_run import AblationPlan
    from leaknet.experiments.ablation_spec import find_ablation
    from leaknet.experiments.ablation_tables import write_results

    ablation, base = find_ablation(options["table"]), configured(options)
    out = Path(options["out"] or settings.runs / f"ablations-{folder.name}")
    out.mkdir(parents=True, exist_ok=True)

    def keep(result: AblationResult, row: RowResult) -> None:
        write_results(result, out)
        click.echo(f"{row.name}: {row.reason or 'done'} ({row.elapsed:.0f} s)", err=True)

    return AblationPlan(
        ablation=ablation,
        base=base,
        seeds=options["seeds"],
        out=out,
        device=resolve_device(options["device"]),
        pool=opt.ray_pool(options),
        force=options["force"],
        on_start=_announce,
        on_rows=keep,
    )


def _announce(row: Row, number: int) -> None:
    click.echo(f"{row.name}, run {number + 1}", err=True)


def _caches(folder: Path, options: dict[str, Any]) -> CachePool:
    from leakcache.device import resolve_device
    from leakcache.store.cache import Cache
    from leaknet.experiments.ablation_run import CachePool

    return CachePool(
        Cache.open(folder / "closed"),
        [Cache.open(Path(other) / "closed") for other in options["also"]],
        [Path(root) for root in options["open_roots"]],
        str(resolve_device(options["device"])),
        fill=options["fill"],
    )
