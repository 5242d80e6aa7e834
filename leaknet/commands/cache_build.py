"""`leak cache build`: fill the columns of a cache."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from leakcache.names import visible
from leakcache.store.remote import address
from leaknet.commands import options as opt
from leaknet.commands.base import (
    LeakCommand,
    Settings,
    data_root,
    emit,
    name_cache,
    next_steps,
    print_findings,
    print_rejects,
    remember,
)

if TYPE_CHECKING:
    from leakcache.dataset.index import DatasetIndex, Split
    from leakcache.images.decode import Preprocessing
    from leakcache.store.build import BuildReport


@click.command(cls=LeakCommand)
@opt.data
@opt.reading
@click.option(
    "--split",
    type=click.Choice(["closed", "open", "all"]),
    default="closed",
    help="Known generators, unknown ones, or both (two caches side by side).",
)
@opt.cache
@opt.vae
@click.option(
    "--view",
    type=click.Choice(["resize", "crop"]),
    default="resize",
    help="Shorter side to --size and centre crop, or crops at native resolution.",
)
@click.option("--size", default=256, help="Side of a view in pixels.")
@click.option("--views", default=1, help="Crops per image (with --view crop).")
@opt.canonical
@click.option(
    "--precision",
    type=click.Choice(["fp32", "bf16", "fp16", "auto"]),
    default="fp32",
    help="Arithmetic of the encoder; its latent error is measured and printed. auto: fp32 or bf16, "
    "whichever a second's measurement finds faster here.",
)
@click.option(
    "--runtime",
    type=click.Choice(["torch", "onnx", "auto"]),
    default="torch",
    help="What runs the encoder. onnx: ONNX Runtime, for tiny autoencoders in fp32 on a CPU, here "
    "and wherever the run scores images. auto: whichever a second's measurement finds faster.",
)
@click.option(
    "--store",
    type=click.Choice(["float16", "float32"]),
    default="float16",
    help="Type of the stored latents.",
)
@opt.seed("Of the fold cut where none is given.")
@opt.device
@click.option(
    "--max-rejects",
    default=1.0,
    metavar="PERCENT",
    help="Exit with 1 when more images than this were refused.",
)
@click.option(
    "--for",
    "target",
    default="best",
    metavar="PRESET|FILE.toml",
    help="Fill the columns that paper, authors, best or a file of settings reads.",
)
@click.option(
    "--columns",
    metavar="NAMES",
    help="Fill these instead, comma-separated: z0, pixel_statistics, activation_statistics, "
    "degraded_pixel_statistics, degraded_activation_statistics, pixels_resize256, "
    "pixels_crop256x2.",
)
@opt.worker
@opt.engine
@click.option("--fresh", is_flag=True, help="Throw away the columns in the cache folder.")
@click.option(
    "--repair", is_flag=True, help="Check all checksums and compute again what is damaged."
)
@opt.json
@click.pass_obj
def build(settings: Settings, /, **options: Any) -> None:
    """Read every image once and fill its columns. Run it again to resume or after adding images.

    Only columns that an image lacks are computed, whatever data set, split or fold it is in.
    JSON keys: cache; by split path, fingerprint, images, computed, stored, columns.NAME, repaired,
    changes, findings (level, sentence), relative_latent_error, rejects[], objects (uploaded),
    seconds.

    \b
    Example:
      leak cache build --split all
      leak cache build --data photos/ --vae taesd --precision bf16 --for paper
      leak cache build --data 'shards/{0000..0099}.tar' --label generator
      srun --ntasks 8 leak cache build --data photos/ --cache shared/c --worker auto
      leak cache build --data photos/ --engine ray --actors 4
      leak cache build --data photos/ --cache s3://bucket/caches/photos
    """
    from leakcache.encoder.weights import locate
    from leakcache.images.decode import Preprocessing

    options["pool"] = opt.ray_pool(options)
    preprocessing = Preprocessing(
        options["view"],
        options["size"],
        options["views"],
        options["canonical"],
        options["canonical_size"],
    )
    # What can be refused is refused before torch is imported, which takes seconds.
    locate(options["vae"])
    root = data_root(options["data"])
    index = opt.read_data(root, options, options["split"])
    _choose_fastest(options)
    words = _words(preprocessing) + "-onnx" * (options["runtime"] == "onnx")
    name = name_cache(root, options["vae"], words, options["precision"])
    folder = Path(options["cache"] or settings.caches / name)
    columns = _columns(options)
    click.echo(f"{root}: {len(index.records)} images, {', '.join(columns)}", err=True)
    reports = _build_splits(index, folder, preprocessing, columns, options)
    remember(settings.caches, folder)
    if options["as_json"]:
        emit({"cache": str(folder), **{s: built(r) for s, r in reports.items()}})
    else:
        for split, report in reports.items():
            print_built(split, report)
        next_steps(["train", "--cache", address(folder)])
    refuse_too_many_rejects(list(reports.values()), options["max_rejects"])


def _choose_fastest(options: dict[str, Any]) -> None:
    """Replace `auto` among the options by what is fastest here."""
    given = {name: options[name] for name in ("runtime", "precision")}
    if "auto" not in given.values():
        return
    from leakcache.device import resolve_device
    from leakcache.encoder.onnx_network import choose_fastest

    choice = choose_fastest(options["vae"], str(resolve_device(options["device"])), **given)
    options.update(runtime=choice.runtime, precision=choice.precision)
    if choice.per_second:
        click.echo(str(choice), err=True)


def _words(preprocessing: Preprocessing) -> str:
    words = f"{preprocessing.name}{preprocessing.size}"
    words += f"x{preprocessing.views}" if preprocessing.views > 1 else ""
    return words + (f"-canonical{preprocessing.canonical_size}" * preprocessing.canonical)


def _columns(options: dict[str, Any]) -> list[str]:
    """The columns to fill, by their names or as settings read them."""
    from leaknet.config import PRESETS, load_config, preset

    if options["columns"] is not None:
        return [name.strip() for name in options["columns"].split(",") if name.strip()]
    target = options["target"]
    file = target not in PRESETS and Path(target).is_file()
    config = load_config(Path(target)) if file else preset(target)
    return list(config.columns())


def _build_splits(
    index: DatasetIndex,
    folder: Path,
    preprocessing: Preprocessing,
    columns: list[str],
    options: dict[str, Any],
) -> dict[str, BuildReport]:
    from leakcache.device import resolve_device
    from leakcache.encoder.autoencoder import Encoder
    from leakcache.progress import track
    from leakcache.store.build import build_cache

    encoder = Encoder.load(
        options["vae"],
        options["precision"],
        str(resolve_device(options["device"])),
        options["runtime"],
    )
    chosen: Split = options["split"]
    splits: list[Split] = [chosen]
    if chosen == "all" and index.records:
        both: tuple[Split, ...] = ("closed", "open")
        splits = [split for split in both if index.select(split).records]
    images = sum(len(index.select(split).records) for split in splits)
    with track("computing", images, "images") as advance:
        return {
            split: build_cache(
                index,
                encoder,
                folder / split,
                split=split,
                preprocessing=preprocessing,
                stored=options["store"],
                columns=columns,
                # The splits share their columns: what one has filled is not thrown away again.
                fresh=options["fresh"] and split == splits[0],
                repair=options["repair"],
                worker=options["worker"],
                pool=options["pool"],
                upload=True,
                advance=advance,
            )
            for split in splits
        }


def built(report: BuildReport) -> dict[str, Any]:
    """Plain values of one split's build."""
    manifest = report.cache.manifest
    return {
        "path": str(report.cache.path),
        "fingerprint": manifest.fingerprint,
        "images": manifest.images,
        "computed": report.computed,
        "stored": report.stored,
        "columns": report.columns,
        "repaired": report.repaired,
        "changes": str(report.changes),
        "findings": [vars(finding) for finding in report.findings],
        "relative_latent_error": manifest.facts["relative_latent_error"],
        "rejects": [{"path": path, "reason": reason} for path, reason in manifest.rejects],
        "objects": report.objects,
        "seconds": round(report.seconds, 3),
    }


def print_built(split: str, report: BuildReport) -> None:
    """What one split's build did."""
    manifest = report.cache.manifest
    for line in report.repaired:
        click.echo(f"repaired: {line}")
    if report.changes:
        click.echo(f"{split}: since the last build, {visible(str(report.changes))}")
    click.echo(
        f"{split}: {manifest.images} images in {address(report.cache.path.parent)}/{split} "
        f"({report.computed} computed, {report.stored} stored before, {report.seconds:.1f} s)"
    )
    if report.objects:
        click.echo(f"  {'uploaded':<30} {report.objects} objects")
    for name, count in report.columns.items():
        if count:
            click.echo(f"  {name:<30} {count} images computed")
    print_findings(report.findings, err=True)
    error = manifest.facts["relative_latent_error"]
    if error is not None:
        click.echo(
            f"{split}: {manifest.encoding.precision} latents differ from fp32 by {error:.2%} RMS"
        )
    print_rejects(manifest.rejects)


def refuse_too_many_rejects(reports: list[BuildReport], percent: float) -> None:
    """Exit with 1 where more than `percent` of the files were left out."""
    refused = sum(len(report.cache.manifest.rejects) for report in reports)
    total = refused + sum(report.cache.manifest.images for report in reports)
    if refused > total * percent / 100:
        click.echo(
            f"error: {refused} of {total} files were left out, more than --max-rejects "
            f"{percent:g} %; the cache holds the rest and can be used",
            err=True,
        )
        sys.exit(1)
