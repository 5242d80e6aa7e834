"""`leak audit`, `leak report`, `leak atlas`: pages about data, runs and generators."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from leaknet.commands import options as opt
from leaknet.commands.base import (
    LeakCommand,
    Settings,
    cache_folder,
    data_root,
    emit,
    next_steps,
    run_folder,
)
from leaknet.commands.preflight import check_cache, check_output, check_run

if TYPE_CHECKING:
    from rich.table import Table

    from leaknet.audit.audit import Audit
    from leaknet.metrics.summary import Interval


_STYLES = {"severe": "bold red", "warning": "yellow", "unsure": "cyan", "note": "dim"}


@click.command(cls=LeakCommand)
@click.argument("data", metavar="[DATA]", required=False)
@click.option(
    "--open",
    "open_roots",
    multiple=True,
    metavar="ROOT|URL",
    callback=opt.copy_urls,
    help="Folder of unknown generators; may be repeated.",
)
@opt.canonical
@opt.seed("Of the fold split if DATA has none.")
@opt.json
@click.pass_obj
def audit(
    settings: Settings,
    /,
    data: str | None,
    open_roots: tuple[str, ...],
    canonical: bool,
    canonical_size: int,
    seed: int,
    as_json: bool,
) -> None:
    """Check DATA before training: how well do file facts and thumbnails identify the generator?

    Classifiers on file facts alone (size, format, coding, metadata) or on an 8×8 thumbnail alone
    name the generator and separate unknown from known generators. The audit also lists duplicate
    images, prompt groups across folds and unbalanced classes. With --canonical it evaluates the
    canonical form that `leak cache build --canonical` encodes. The result is kept beside the
    caches, and `leak report` shows its findings. [default: data/]

    JSON keys: metadata.*, thumbnail.* (top1, macro_auc, interval, chance, per_class_auc,
    shuffled, facts), open.metadata.*, open.thumbnail.* (auroc, interval, generators, facts),
    duplicates.exact.*, duplicates.near.*, crossing_groups, images, unreadable, findings
    (level, control, sentence).

    \b
    Example:
      leak audit photos/
      leak audit photos/ --open unknown-generators/ --canonical --json
    """
    from leakcache.dataset.index import read_index

    index = read_index(data_root(data), seed=seed)
    unknown = [read_index(Path(root), open_set=True) for root in open_roots]

    from leakcache.images.decode import Preprocessing
    from leaknet.audit.audit import audit as run_audit
    from leaknet.files import write_json
    from leaknet.report.related import audit_file

    side = Preprocessing(canonical=canonical, canonical_size=canonical_size).canonical_size
    result = run_audit(
        index,
        unknown,
        canonical=side if canonical else None,
    )
    file = audit_file(settings.caches, result.index.root, result.canonical)
    file.parent.mkdir(parents=True, exist_ok=True)
    write_json(file, result.as_dict(paths=False))
    if as_json:
        emit(result.as_dict())
    else:
        _print(result)
        source = result.index.source or result.index.root
        next_steps(["cache", "build", "--data", str(source)])


def _print(result: Audit) -> None:
    from rich.console import Console
    from rich.text import Text

    console = Console(highlight=False)
    console.print(_table(result))
    protocols = [c.protocol for c in (result.metadata, result.open_metadata) if c]
    if protocols:
        evaluated = "; known against unknown: ".join(protocols)
        console.print(
            Text(f"95 % intervals; evaluated on {evaluated}", style="dim"), soft_wrap=True
        )
    for finding in result.findings:
        level = Text(f"{finding.level:<8}", style=_STYLES[finding.level])
        console.print(level + Text(finding.sentence, style=""), soft_wrap=True)


def _table(result: Audit) -> Table:
    """One row per control: top-1, macro AUC and AUROC of the open set if there is one."""
    from rich.table import Table
    from rich.text import Text

    form = f", canonical form of {result.canonical} px" if result.canonical else ""
    images = result.as_dict(paths=False)["images"]
    counts = ", ".join(f"{number} {name}" for name, number in images.items() if number)
    table = Table(title=Text(f"{result.index.root}{form}: {counts}"), title_justify="left")
    for heading in ("features", "top-1", "chance", "macro AUC", "known against unknown"):
        table.add_column(heading, justify="left" if heading == "features" else "right")
    rows = (
        ("file facts", result.metadata, result.open_metadata),
        ("8×8 thumbnail", result.thumbnail, result.open_thumbnail),
    )
    for name, closed, unknown in rows:
        table.add_row(
            name,
            _cell(closed.top1) if closed else "-",
            f"{closed.chance:.3f}" if closed else "-",
            _cell(closed.macro_auc) if closed else "-",
            _cell(unknown.auroc) if unknown else "-",
        )
    return table


def _cell(interval: Interval) -> str:
    return f"{interval.value:.3f} ({interval.low:.2f}-{interval.high:.2f})"


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

    from leaknet.report.page import find_browser, write_figures
    from leaknet.report.report import write_page

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
    from leaknet.config import PIXELS, Z0
    from leaknet.data.columns import load_columns
    from leaknet.report.comparison_pages import write_atlas
    from leaknet.report.traces import make_atlas
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
