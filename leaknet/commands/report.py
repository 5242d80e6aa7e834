"""`leak report`: what a run measured as one HTML page."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from leaknet.commands.defaults import LeakCommand, Settings, run_folder
from leaknet.commands.options import emit, json_option, next_steps


@click.command(cls=LeakCommand)
@click.argument("run", required=False)
@click.option("--out", metavar="FILE", help="The page to write. [default: report.html in the run]")
@json_option
@click.pass_obj
def report(settings: Settings, /, **options: Any) -> None:
    """Write what a scored RUN measured as one HTML page that needs nothing else.

    Figures with intervals, confusion, score histograms and curves of unknown generators, what the
    figures mean, training, a map of the embeddings, and how to make the run again.
    [default: the run trained last]
    JSON keys: report, bytes.

    \b
    Example:
      leak report
      leak report runs/mine --out mine.html
    """
    from leaknet.report.page import write_page

    run = run_folder(options["run"], settings.runs)
    page = write_page(run, Path(options["out"]) if options["out"] else None)
    size = page.stat().st_size
    if options["as_json"]:
        emit({"report": str(page), "bytes": size})
    else:
        click.echo(f"{page} ({size / 1000:.0f} kB)")
        next_steps(["score", "IMAGE", "--run", str(run)])
