"""`leak same` and `leak cluster`: which images have the same source, known or not?"""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from leakcache.dataset.image_files import find_images
from leaknet.commands import options as opt
from leaknet.commands.defaults import LeakCommand, Settings
from leaknet.commands.output import emit, next_steps
from leaknet.commands.preflight import check_output, checked_run

if TYPE_CHECKING:
    from leaknet.sources.comparison import SourceComparison


@click.command(cls=LeakCommand)
@click.argument(
    "images", nargs=-1, required=True, metavar="IMAGE|FOLDER...", callback=opt.copy_urls
)
@opt.run
@click.option("--csv", "csv_file", metavar="FILE", help="Write every pair as CSV.")
@click.option(
    "--out",
    metavar="FILE",
    help="The page to write for more than two images. [default: same.html in the run]",
)
@opt.run_vae
@opt.device
@opt.json
@click.pass_obj
def same(settings: Settings, /, **options: Any) -> None:
    """Compare IMAGEs and the images in FOLDERs: does each pair have the same source?

    The likelihood ratio of the run's two-covariance model (preset best), calibrated on pairs of
    generators left out of training: it needs no known generator. Of more than two images, a page
    shows the matrix and the dendrogram.
    JSON keys: run, calibration.* (slope, offset, low, high, cut, auroc, cllr, images,
    generators), rejected[] (path, reason), page, pairs[] with first, second, log10_lr, chance (at
    even prior odds), verbal and answer (same, different or unsure).

    \b
    Example:
      leak same first.png second.png
      leak same suspects/ --csv pairs.csv --out suspects.html
    """
    run = checked_run(options["run"], settings.runs)
    page, table = _outputs(options, run / "same.html")
    found = _comparison(run, options)

    from leaknet.sources.page import write_comparison
    from leaknet.sources.table import print_comparison, write_pairs

    if table:
        write_pairs(found.pairs(), table)
    drawn = len(found) > 2 or bool(options["out"])
    if drawn:
        write_comparison(found, run, page)
    if options["as_json"]:
        head = {"run": str(run), **found.facts(), "page": str(page) if drawn else None}
        emit({**head, "pairs": [asdict(pair) for pair in found.pairs()]})
        return
    print_comparison(found)
    if drawn:
        click.echo(f"{page}")
    next_steps(["score", *options["images"], "--run", str(run)])


@click.command(cls=LeakCommand)
@click.argument(
    "images", nargs=-1, required=True, metavar="FOLDER|IMAGE...", callback=opt.copy_urls
)
@opt.run
@click.option("--csv", "csv_file", metavar="FILE", help="Write path and cluster of every image.")
@click.option(
    "--out", metavar="FILE", help="The page to write. [default: clusters.html in the run]"
)
@opt.run_vae
@opt.device
@opt.json
@click.pass_obj
def cluster(settings: Settings, /, **options: Any) -> None:
    """Group the images in FOLDER by source, known or not.

    Average linkage of the calibrated ratios of `leak same`, joined down to the ratio that grouped
    images of left-out generators best. The page has a contact sheet of each cluster and the
    dendrogram.
    JSON keys: run, cut, calibration.*, rejected[] (path, reason), page, clusters[] with number,
    images (paths), within (mean log10 ratio), nearest and between; the largest first.

    \b
    Example:
      leak cluster suspects/
      leak cluster suspects/ --csv clusters.csv --out clusters.html
    """
    run = checked_run(options["run"], settings.runs)
    page, table = _outputs(options, run / "clusters.html")
    compared = _comparison(run, options)

    from leaknet.sources.clustering import Clustering
    from leaknet.sources.page import write_clusters
    from leaknet.sources.table import print_clusters, write_csv

    found = Clustering.of(compared)
    if table:
        write_csv(table, ["path", "cluster"], found.rows())
    write_clusters(found, run, page)
    if options["as_json"]:
        paths = compared.paths
        rows = [asdict(one) | {"images": [paths[i] for i in one.images]} for one in found.clusters]
        head = {"run": str(run), "cut": found.cut, **compared.facts()}
        emit({**head, "page": str(page), "clusters": rows})
        return
    print_clusters(found)
    click.echo(f"{page}")
    next_steps(["same", *options["images"], "--run", str(run)])


def _outputs(options: dict[str, Any], page: Path) -> tuple[Path, Path | None]:
    """The page and the CSV file that a command writes; both can be written."""
    page = Path(options["out"]) if options["out"] else page
    table = Path(options["csv_file"]) if options["csv_file"] else None
    for path in (page, table):
        check_output(path)
    return page, table


def _comparison(run: Path, options: dict[str, Any]) -> SourceComparison:
    """The comparison of the images that a command names."""
    images = find_images(options["images"])
    from leakcache.device import resolve_device
    from leaknet.sources.comparison import compare_images
    from leaknet.training.run_folder import RunFolder

    device = resolve_device(options["device"])
    model = RunFolder(run).load_model(device)
    return compare_images(model, images, vae=options["autoencoder"], device=str(device))
