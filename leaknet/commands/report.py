"""`leak report`: what a run measured, or several runs side by side, as one HTML page."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from leaknet.commands import options as opt
from leaknet.commands.defaults import LeakCommand, Settings, run_folder
from leaknet.commands.output import emit, next_steps
from leaknet.commands.preflight import check_output, check_run


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

    from leaknet.report.browser import find_browser, write_figures
    from leaknet.report.page import write_page

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
