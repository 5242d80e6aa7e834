"""`leak atlas`: what the traces of the generators of a cache look like."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from leaknet.commands import options as opt
from leaknet.commands.defaults import LeakCommand, Settings, cache_folder
from leaknet.commands.output import emit, next_steps
from leaknet.commands.preflight import check_cache, check_output


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

    from leakcache.store.changes import open_current
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
