"""`leak runs` and `leak compare`: the trained runs, which is the default, which is better."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from leakcache.errors import RunError
from leaknet.commands import options as opt
from leaknet.commands.defaults import LeakCommand, Settings, latest, remember
from leaknet.commands.output import emit, next_steps
from leaknet.commands.preflight import check_run

if TYPE_CHECKING:
    from leaknet.report.run_list import RunSummary


@click.group(invoke_without_command=True)
@opt.json
@click.pass_context
def runs(ctx: click.Context, as_json: bool) -> None:
    """List the trained runs: data, preset, figures, date; * marks the default of other commands.

    Figures of a run that was only trained are those of the validation fold (val).
    JSON keys: folder, latest, runs[] with path, data, preset, seed, generators, fold,
    figures.top1, figures.macro_auc, figures.auroc, trained; damaged[] in words (exit 1).

    \b
    Example:
      leak runs
      leak runs use photos-best-seed1
    """
    if ctx.invoked_subcommand is not None:
        return
    from leaknet.report.run_list import find_runs

    folder = (ctx.find_object(Settings) or Settings({})).runs
    (found, damaged), default = find_runs(folder), latest(folder)
    if as_json:
        emit(
            {
                "folder": str(folder),
                "latest": str(default) if default else None,
                "runs": [run.as_dict() for run in found],
                "damaged": damaged,
            }
        )
    elif found:
        _list(found, default)
    for line in damaged:
        click.echo(f"error: {line}", err=True)
    if damaged:
        ctx.exit(1)
    if not found and not as_json:
        click.echo(f"{folder}: no run yet")
        next_steps(["train"], ["demo"])


def _list(found: list[RunSummary], default: Path | None) -> None:
    _print(found, default)
    first, *others = sorted(found, key=lambda run: not _same(run.path, default))
    switch = [["runs", "use", others[0].path.name]] if others else []
    next_steps(["report", str(first.path)], *switch)


def _same(run: Path, default: Path | None) -> bool:
    return default is not None and default.resolve() == run.resolve()


def _print(found: list[RunSummary], default: Path | None) -> None:
    headings = ("", "run", "data", "preset", "known", "fold", "top-1", "macro AUC", "AUROC", "date")
    rows: list[tuple[str, ...]] = [headings]
    for run in found:
        mark = "*" if _same(run.path, default) else ""
        figures = [
            f"{run.figures[key]:.3f}" if key in run.figures else "-"
            for key in ("top1", "macro_auc", "auroc")
        ]
        name, known = run.path.name, str(run.generators)
        rows.append(
            (mark, name, run.data, run.preset, known, run.fold or "-", *figures, run.trained)
        )
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        line = "  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True))
        click.echo(line.rstrip())


@runs.command(cls=LeakCommand)
@click.argument("name")
@opt.json
@click.pass_obj
def use(settings: Settings, name: str, as_json: bool) -> None:
    """Make the run NAME (or a folder) the default of score, report and enroll.

    JSON keys: latest.

    \b
    Example:
      leak runs use photos-best-seed1
    """
    from leaknet.report.run_list import CONFIG

    folder = next((f for f in (settings.runs / name, Path(name)) if (f / CONFIG).is_file()), None)
    if folder is None:
        raise RunError(f"{settings.runs}: holds no run named {name}; `leak runs` lists them")
    remember(settings.runs, folder)
    if as_json:
        emit({"latest": str(folder)})
    else:
        click.echo(f"{folder} is the default run")
        next_steps(["score", "IMAGE"], ["report"])


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
