"""`leak bench` and `leak bench-speed`: the paper's Table 1 on one's own data; speed here."""

from __future__ import annotations

import sys
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from leakcache.dataset.index import read_index
from leaknet.commands import options as opt
from leaknet.commands.base import (
    LeakCommand,
    Settings,
    cache_folder,
    data_root,
    emit,
    name_cache,
    next_steps,
    remember,
)
from leaknet.commands.preflight import check_roots, check_trainable

if TYPE_CHECKING:
    from leakcache.dataset.records import DatasetIndex
    from leakcache.store.cache import Cache
    from leaknet.experiments.benchmark import BenchPlan, BenchResult
    from leaknet.experiments.tables import RowResult


@click.command(cls=LeakCommand)
@click.option(
    "--methods",
    default="all",
    metavar="NAMES",
    help="Comma-separated rows, see docs/BASELINES.md; or all.",
)
@opt.data
@opt.cache
@opt.vae
@opt.open_roots
@click.option(
    "--steps",
    default="0",
    callback=opt.step_numbers(0),
    metavar="LIST",
    help="Blocks of the table: 0 raw, 1 to 3 degraded test and open images, e.g. 0,1,2,3.",
)
@click.option("--seeds", type=opt.SEEDS, default=1, help="Trainings a method.")
@click.option(
    "--epochs", type=click.IntRange(1), help="Of every method. [default: each method's own]"
)
@click.option(
    "--limit", type=click.IntRange(1), help="Images of each fold at most, for a quick pass."
)
@click.option(
    "--precision",
    type=click.Choice(["fp32", "bf16"]),
    default="fp32",
    help="Of networks on pixels, under autocast; bf16 is about twice as fast.",
)
@click.option(
    "--weights",
    metavar="DIR",
    help="Folder of pretrained weights as safetensors, see docs/BASELINES.md. [default: the hub]",
)
@click.option("--detector", default="kde", help="Tells known from unknown, for all rows.")
@click.option(
    "--out", metavar="DIR", help="Table and trainings. [default: bench-CACHE under the runs]"
)
@opt.device
@opt.memory
@opt.engine
@opt.json
@click.pass_obj
def bench(settings: Settings, /, **options: Any) -> None:
    """Train and evaluate compared methods on the same folds, detectors and metrics: Table 1.

    With --data the cache is built or brought up to date first; with --cache alone it is taken as
    it is. A method whose weights cannot be had has a row that says so, and the rest go on. A
    method that is finished under a seed is never trained again: the same command goes on where it
    was stopped. bench.json, bench.md and bench.parquet are written after every method.
    JSON keys: classes, images, steps, seeds, epochs, limit, precision, detector, out, rows[] with
    method, step, top1, top5 (more than ten classes), macro_auc, open_auroc and open_oscr (all
    unknown images), open_mean and open_worst (over unknown generators), parameters, seconds,
    reason, published_macro_auc, behind_ours.top1, behind_ours.p, sd.*, interval.*, seeds.*.

    \b
    Example:
      leak bench --methods all --data data/ --epochs 1 --limit 24
      leak bench --methods resnet50,npr,ours --open unknown/ --steps 0,1,2,3 --seeds 3
      leak bench --methods all --engine ray --address auto
    """
    steps = options["steps"]
    if options["detector"] == "all":
        raise click.BadParameter("takes one name", param_hint="--detector")
    index = None if options["data"] is None else read_index(data_root(options["data"]))
    if index is None:
        check_trainable(cache_folder(options["cache"], settings.caches))
    check_roots(options["open_roots"])

    from leakcache.device import resolve_device
    from leakcache.store.build import ensure_columns, open_set_builds
    from leaknet.baselines.own_rows import Ours
    from leaknet.config import preset
    from leaknet.experiments.bench_trial import raw_data, with_steps
    from leaknet.experiments.benchmark import bench_tables, run_bench, write_bench
    from leaknet.experiments.tables import print_grids

    plan = _plan(options)
    device = str(resolve_device(options["device"]))
    closed = _closed(settings, options, index, device)
    unknown = [build.cache for build in open_set_builds(closed, options["open_roots"], device)]
    for method in plan.methods:
        if issubclass(method, Ours):
            columns = preset(method.preset).columns()
            ensure_columns([closed, *unknown], columns, device, fill=True)
    data = with_steps(raw_data(closed, unknown, options["limit"]), closed, unknown, steps, device)
    out = Path(options["out"] or settings.runs / _name(closed, options))
    plan = replace(plan, out=out, on_rows=partial(_keep, out))
    result = run_bench(plan, data)
    files = write_bench(result, plan.out)
    if options["as_json"]:
        emit({**result.as_dict(), "out": str(plan.out)})
    else:
        print_grids(bench_tables(result))
        click.echo(f"{plan.out}: {', '.join(files)} and the trainings")
        next_steps(["report"])
    if all(not row.figures for row in result.rows):
        sys.exit(1)


def _plan(options: dict[str, Any]) -> BenchPlan:
    from leakcache.device import resolve_device
    from leaknet.baselines.base import BaselineOptions
    from leaknet.experiments.benchmark import BenchPlan, methods_named
    from leaknet.scoring.run_embeddings import detectors_named

    return BenchPlan(
        out=Path(),
        methods=methods_named(options["methods"]),
        seeds=options["seeds"],
        kinds=detectors_named([options["detector"]]),
        device=resolve_device(options["device"]),
        pool=opt.ray_pool(options),
        options=BaselineOptions(
            weights=Path(options["weights"]) if options["weights"] else None,
            epochs=options["epochs"],
            precision=options["precision"],
        ),
    )


def _closed(
    settings: Settings, options: dict[str, Any], index: DatasetIndex | None, device: str
) -> Cache:
    """The cache of the known generators; built from the images of --data where that is given."""
    from leakcache.store.cache import open_current

    if index is None:
        return open_current(cache_folder(options["cache"], settings.caches) / "closed")
    from leakcache.encoder.autoencoder import Encoder
    from leakcache.encoder.weights import locate
    from leakcache.images.decode import Preprocessing
    from leakcache.store.build import build_cache
    from leakcache.store.manifest import FILE, CacheManifest

    cut = Preprocessing()
    spec, precision, stored, runtime = options["vae"], "fp32", "float16", "torch"
    name = name_cache(index.root, spec, f"{cut.name}{cut.size}", precision)
    folder = Path(options["cache"] or settings.caches / name)
    if options["cache"] and (folder / "closed" / FILE).is_file():
        # The images of --data, encoded as the cache that was named has them.
        found = CacheManifest.read(folder / "closed").encoding
        spec, precision, runtime = found.autoencoder.spec, found.precision, found.runtime
        cut, stored = found.preprocessing, found.stored
    locate(spec)
    report = build_cache(
        index,
        Encoder.load(spec, precision, device, runtime),
        folder / "closed",
        preprocessing=cut,
        stored=stored,
    )
    remember(settings.caches, folder)
    return report.cache


def _name(closed: Cache, options: dict[str, Any]) -> str:
    """Folder name that tells benches of the same cache apart."""
    name = f"bench-{closed.path.parent.name}"
    for option in ("epochs", "limit"):
        name += f"-{option}{options[option]}" if options[option] is not None else ""
    return name


def _keep(out: Path, result: BenchResult, rows: tuple[RowResult, ...]) -> None:
    from leaknet.experiments.benchmark import write_bench

    write_bench(result, out)
    click.echo(f"{rows[0].name}: {rows[-1].reason or 'done'}", err=True)


MEANING = {
    "build.images_per_second": "a cache build, from JPEG files to latents on disk",
    "build.of_limit": "relative to the encoder alone on tensors in memory (goal: at least 0.95)",
    "build.bf16_error": "relative RMS error of bf16 latents",
    "build.best_images_per_second": "a build for `best`, images of 512 pixels, half for training",
    "build.best_of_limit": "relative to the encoder alone on the same views (goal: at least 0.70)",
    "build.best_passes": "encoded views of 512 × 512 pixels an image, in area (goal: at most 4)",
    "build.kl_of_limit": "a build by an autoencoder of the size of SD 2.1, relative to that alone",
    "train.images_per_second": "a training epoch on cached latents",
    "train.of_limit": "relative to forward, backward and update alone (goal: at least 0.95)",
    "train.over_sd": "times faster than with an SD-sized encoder in the loop (goal: 100)",
    "train.over_taesd": "times faster than with a TAESD-sized one (goal: 10)",
    "kde.over_sklearn": "times faster than scikit-learn's KernelDensity (goal: 9)",
    "kde.over_sklearn_exact": "the same with scikit-learn set to exact results",
}


@click.command("bench-speed", cls=LeakCommand)
@opt.vae
@opt.device
@opt.json
def bench_speed(vae: str, device: str, as_json: bool) -> None:
    """Benchmark build, training and KDE on this machine; about three minutes on two cores.

    JSON keys: build.images_per_second, build.of_limit, build.bf16_error,
    build.best_images_per_second, build.best_of_limit, build.best_passes, build.kl_of_limit,
    train.images_per_second, train.of_limit, train.over_sd, train.over_taesd,
    kde.over_sklearn, kde.over_sklearn_exact.

    \b
    Example:
      leak bench-speed --json
    """
    from leakcache.device import resolve_device

    where = resolve_device(device)
    measured = {"build": _build(vae, str(where)), "train": _train(where), "kde": _kde()}
    if as_json:
        emit(measured)
        return
    for group, values in measured.items():
        for name, value in values.items():
            click.echo(f"{group}.{name:<20} {value:10.3f}  {MEANING[f'{group}.{name}']}")
    next_steps(["cache", "build", "--vae", vae])


def _build(vae: str, device: str) -> dict[str, Any]:
    from leaknet.config import preset
    from leaknet.experiments.speed import measure_bf16_error, measure_build

    columns = preset("best").columns()
    speed, best = measure_build(vae, device), measure_build(vae, device, columns=columns, images=10)
    return {
        "images_per_second": 1 / speed.elapsed,
        "of_limit": speed.of_limit,
        "bf16_error": measure_bf16_error(vae, device),
        "best_images_per_second": 1 / best.elapsed,
        "best_of_limit": best.of_limit,
        "best_passes": best.passes,
        "kl_of_limit": _kl(device),
    }


def _kl(device: str) -> float:
    """Throughput of a build by a KL autoencoder of full size, relative to that alone."""
    import tempfile

    from leaknet.experiments.speed import measure_build, sd_autoencoder

    with tempfile.TemporaryDirectory(prefix="leak-speed-") as folder:
        sd_autoencoder().save_pretrained(folder)
        # In full precision, as a build measures the error of any other on its first image.
        return measure_build(folder, device, "fp32", images=6, side=256).of_limit


def _train(device: Any) -> dict[str, Any]:
    from leaknet.experiments.speed import measure_encoder, measure_epoch, sd_encoder, taesd_encoder

    speed = measure_epoch(device)
    return {
        "images_per_second": 1 / speed.cached,
        "of_limit": speed.of_limit,
        "over_sd": speed.over_encoder(measure_encoder(sd_encoder(), device)),
        "over_taesd": speed.over_encoder(measure_encoder(taesd_encoder(), device)),
    }


def _kde() -> dict[str, Any]:
    from leaknet.experiments.speed import measure_density

    speed = measure_density()
    return {
        "over_sklearn": speed.sklearn / speed.ours,
        "over_sklearn_exact": speed.sklearn_exact / speed.ours,
    }
