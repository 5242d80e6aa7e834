"""`leak same`: do images have the same source, known or not?"""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from leakcache.dataset.image_files import find_images
from leaknet.commands.defaults import LeakCommand, Settings, run_folder
from leaknet.commands.options import (
    device_option,
    emit,
    json_option,
    next_steps,
    run_option,
    run_vae_option,
)
from leaknet.commands.preflight import check_output, check_run

if TYPE_CHECKING:
    from leaknet.sources.comparison import SourceComparison


@click.command(cls=LeakCommand)
@click.argument("images", nargs=-1, required=True, metavar="IMAGE|FOLDER...")
@run_option
@click.option("--csv", "csv_file", metavar="FILE", help="Write every pair as CSV.")
@click.option(
    "--out",
    metavar="FILE",
    help="The page to write for more than two images. [default: same.html in the run]",
)
@run_vae_option
@device_option
@json_option
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
    run = run_folder(options["run"], settings.runs)
    check_run(run)
    page = Path(options["out"]) if options["out"] else run / "same.html"
    table = Path(options["csv_file"]) if options["csv_file"] else None
    for path in (page, table):
        check_output(path)
    found = comparison(run, options)

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


def comparison(run: Path, options: dict[str, Any]) -> SourceComparison:
    """The comparison of the images that a command names."""
    images = find_images(options["images"])
    from leakcache.device import resolve_device
    from leaknet.sources.comparison import compare_images
    from leaknet.training.run_folder import RunFolder

    device = resolve_device(options["device"])
    model = RunFolder(run).load_model(device)
    return compare_images(model, images, vae=options["autoencoder"], device=str(device))
