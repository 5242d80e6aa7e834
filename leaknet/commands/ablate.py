"""`leak ablate`: the paper's tables, and tables of one's own, from one cache."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from leaknet.commands import options as opt
from leaknet.commands.defaults import LeakCommand, Settings, cache_folder
from leaknet.commands.output import emit, next_steps
from leaknet.commands.preflight import check_trainable

if TYPE_CHECKING:
    from leaknet.experiments.ablation.run import AblationPlan
    from leaknet.experiments.ablation.spec import Row
    from leaknet.experiments.ablation.tables import AblationResult
    from leaknet.experiments.caches import CachePool
    from leaknet.experiments.rows import RowResult


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

    from leaknet.experiments.ablation.run import run_ablation
    from leaknet.experiments.ablation.tables import ablation_tables, summary_line, write_results
    from leaknet.experiments.tables import print_grids

    plan = _plan(settings, folder, options)
    result = run_ablation(plan, _pool(folder, options))
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


def _plan(settings: Settings, folder: Path, options: dict[str, Any]) -> AblationPlan:
    from leakcache.device import resolve_device
    from leaknet.commands.train import configured
    from leaknet.experiments.ablation.run import AblationPlan
    from leaknet.experiments.ablation.spec import find_ablation
    from leaknet.experiments.ablation.tables import write_results

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


def _pool(folder: Path, options: dict[str, Any]) -> CachePool:
    from leakcache.device import resolve_device
    from leakcache.store.cache import Cache
    from leaknet.experiments.caches import CachePool

    return CachePool(
        Cache.open(folder / "closed"),
        [Cache.open(Path(other) / "closed") for other in options["also"]],
        [Path(root) for root in options["open_roots"]],
        str(resolve_device(options["device"])),
        fill=options["fill"],
    )
