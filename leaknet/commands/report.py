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
@opt.json
@click.pass_obj
def report(settings: Settings, /, **options: Any) -> None:
    """Write what a scored RUN measured as one HTML page; several RUNs side by side.

    Figures with intervals, confusion, ROC and reliability, score densities of unknown generators
    with the threshold, findings of the audit, tables of evaluations, ablations and benchmarks of
    the same data, what the figures mean, and how to make the run again. The page needs no
    network. [default: the run trained last]
    JSON keys: report, bytes.

    \b
    Example:
      leak report
      leak report runs/paper runs/best --out compare.html
    """
    named = options["runs"] or [run_folder(settings.content.get("run"), settings.runs)]
    out = Path(options["out"]) if options["out"] else None
    for run in named:
        check_run(Path(run))
    check_output(out)

    from leaknet.report.page import write_page

    page = write_page([Path(run) for run in named], out)
    size = page.stat().st_size
    if options["as_json"]:
        emit({"report": str(page), "bytes": size})
    else:
        click.echo(f"{page} ({size / 1000:.0f} kB)")
        next_steps(["score", "IMAGE", "--run", str(named[0])])
