"""`leak compare`: is one run better than another on the same images?"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from leaknet.commands import options as opt
from leaknet.commands.defaults import LeakCommand, Settings
from leaknet.commands.output import emit, next_steps
from leaknet.commands.preflight import check_run


@click.command(cls=LeakCommand)
@click.argument("run_a", metavar="RUN_A")
@click.argument("run_b", metavar="RUN_B")
@click.option(
    "--detector",
    default="kde",
    metavar="NAME",
    help="Detector compared where both runs were scored against the same open set.",
)
@opt.json
@click.pass_obj
def compare(settings: Settings, /, run_a: str, run_b: str, **options: Any) -> None:
    """Test whether RUN_B differs from RUN_A: paired, on the same images, by prompt group.

    Both must have been scored on the same test images (`leak score` or `leak evaluate`).
    JSON keys: closed.top1, closed.balanced, closed.macro_auc, closed.ece, open.auroc,
    open.eer, ..., each with value (B minus A), low, high, p; images, detector.

    \b
    Example:
      leak compare runs/paper-seed0 runs/best-seed0
    """
    check_run(Path(run_a))
    check_run(Path(run_b))

    from leaknet.experiments.compare_runs import compare_runs, comparison_table
    from leaknet.experiments.tables import print_grids
    from leaknet.scoring.fitted_detectors import detectors_named

    name = options["detector"]
    if name == "all":
        raise click.BadParameter("takes one detector", param_hint="--detector")
    (kind,) = detectors_named([name])
    result = compare_runs(Path(run_a), Path(run_b), kind)
    if options["as_json"]:
        emit(result.as_dict())
    else:
        print_grids([comparison_table(result)])
        next_steps(["report", run_a], ["report", run_b])
