"""`leak report` and `leak atlas`: pages about runs, and about the generators of a cache."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from leaknet.commands import options as opt
from leaknet.commands.defaults import LeakCommand, Settings, cache_folder, run_folder
from leaknet.commands.output import emit, next_steps
from leaknet.commands.preflight import check_cache, check_output, check_run


@click.command(cls=LeakCommand)
@click.argument("runs", nargs=-1, metavar="[RUN]...")
@click.option(
    "--out",
    metavar="FILE",
    help="The page to write. [default: report.html in the run, comparison.html beside the runs]",
)
@click.option(
    "--png",
    metavar="FOLDER",
    help="Also write each figure of one RUN as PNG, by Chromium or Chrome.",
)
@opt.json
@click.pass_obj
def report(settings: Settings, /, **options: Any) -> None:
    """Write what a scored RUN measured as one HTML page; several RUNs side by side.

    Figures with intervals, confusion, ROC and reliability, score densities of unknown generators
    with the threshold, attention over noise steps, mean leaks before and after noise, a map of the
    embeddings, findings of the audit, tables of evaluations, ablations and benchmarks of the same
    data, what the figures mean, and how to make the run again. The page needs no network.
    [default: the run trained last]
    JSON keys: report, bytes, figures[] (with --png).

    \b
    Example:
      leak report
      leak report runs/paper runs/best --out compare.html
      leak report runs/best --png figures/
    """
    named = options["runs"] or [run_folder(settings.content.get("run"), settings.runs)]
    out = Path(options["out"]) if options["out"] else None
    for run in named:
        check_run(Path(run))
    check_output(out)
    if options["png"] and len(named) > 1:
        raise click.UsageError("--png writes the figures of one run: name one RUN")

    from leaknet.report.page import find_browser, write_figures, write_page

    browser = find_browser("--png") if options["png"] else None
    page = write_page([Path(run) for run in named], out)
    size = page.stat().st_size
    figures = write_figures(browser, page, Path(options["png"])) if browser else []
    if options["as_json"]:
        emit({"report": str(page), "bytes": size, "figures": [str(file) for file in figures]})
    else:
        click.echo(f"{page} ({size / 1000:.0f} kB)")
        if figures:
            click.echo(f"{options['png']}: {', '.join(file.name for file in figures)}")
        next_steps(["score", "IMAGE", "--run", str(named[0])])


@click.command(cls=LeakCommand)
@opt.cache
@click.option(
    "--out", metavar="FILE", help="The page to write. [default: atlas.html beside the cache]"
)
@opt.json
@click.pass_obj
def atlas(settings: Settings, /, **options: Any) -> None:
    """Write the mean traces of the known generators of a cache as one HTML page.

    Residual spectra and autocorrelations, deviations of latents at low frequencies and of their
    channel means with control of the false discovery rate, distances of the generators in pixel
    statistics with a dendrogram. No image is read again; a cache without pixel statistics has the
    latents alone.
    JSON keys: atlas, generators.NAME (images), paired (fraction of images whose prompt group has
    several generators), false_discovery_rate, channels.NAME.*, low.NAME.*, spectrum.NAME.* (mean,
    significant), distances.

    \b
    Example:
      leak atlas
      leak atlas --cache caches/photos --out traces.html
    """
    folder = cache_folder(options["cache"], settings.caches)
    check_cache(folder)
    out = Path(options["out"]) if options["out"] else folder / "atlas.html"
    check_output(out)

    import numpy as np

    from leakcache.store.cache import open_current
    from leaknet.atlas import make_atlas
    from leaknet.atlas.page import write_atlas
    from leaknet.config import PIXELS, Z0
    from leaknet.data.columns import load_columns
    from leaknet.scoring.run_embeddings import CLOSED_FOLDS

    cache = open_current(folder / "closed")
    rows = np.concatenate([cache.rows(fold) for fold in CLOSED_FOLDS])
    found = make_atlas(load_columns(cache, rows, [c for c in (Z0, PIXELS) if cache.has(c, rows)]))
    write_atlas(found, str(folder), Path(cache.manifest.data), out)
    if options["as_json"]:
        emit({"atlas": str(out), **found.as_dict()})
    else:
        click.echo(f"{out} ({out.stat().st_size / 1000:.0f} kB)")
        next_steps(["train", "--cache", str(folder)], ["report"])
