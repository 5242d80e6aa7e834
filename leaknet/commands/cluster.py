"""`leak cluster`: how many sources, and which images belong together?"""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

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
from leaknet.commands.same import comparison


@click.command(cls=LeakCommand)
@click.argument("images", nargs=-1, required=True, metavar="FOLDER|IMAGE...")
@run_option
@click.option("--csv", "csv_file", metavar="FILE", help="Write path and cluster of every image.")
@click.option(
    "--out", metavar="FILE", help="The page to write. [default: clusters.html in the run]"
)
@run_vae_option
@device_option
@json_option
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
    run = run_folder(options["run"], settings.runs)
    check_run(run)
    page = Path(options["out"]) if options["out"] else run / "clusters.html"
    table = Path(options["csv_file"]) if options["csv_file"] else None
    for path in (page, table):
        check_output(path)
    compared = comparison(run, options)

    from leaknet.sources.cluster_page import write_clusters
    from leaknet.sources.clustering import Clustering
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
