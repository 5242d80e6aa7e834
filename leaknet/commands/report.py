"""`leak report`: a run's figures and curves as one HTML page."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from leaknet.commands.defaults import LeakCommand, Settings, run_folder
from leaknet.commands.options import emit, json_option, run_option


@click.command(cls=LeakCommand)
@run_option
@click.option("--out", metavar="FILE", help="The page to write. [default: report.html in the run]")
@json_option
@click.pass_obj
def report(settings: Settings, /, **options: Any) -> None:
    """Write what a scored run found as one HTML page that needs nothing else.

    Figures with intervals, who is taken for whom, score histograms and curves of unknown
    generators, what to believe and what not, training, attention, a map of the embeddings, and
    how to make it all again.
    JSON keys: report, bytes.

    \b
    Example:
      leak report
      leak report --run runs/mine --out mine.html
    """
    from leaknet.report.page import write_page

    run = run_folder(options["run"], settings.runs)
    page = write_page(run, Path(options["out"]) if options["out"] else None)
    size = page.stat().st_size
    if options["as_json"]:
        emit({"report": str(page), "bytes": size})
    else:
        click.echo(f"{page} ({size / 1000:.0f} kB)")
