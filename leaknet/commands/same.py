"""`leak same`, `leak cluster` and `leak enroll`: images of one source, known or not."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from leakcache.dataset.image_files import find_images
from leaknet.commands import options as opt
from leaknet.commands.base import LeakCommand, Settings, emit, next_steps, remember, run_folder
from leaknet.commands.preflight import check_output, check_run, checked_run

if TYPE_CHECKING:
    from leaknet.enroll import Enrolment
    from leaknet.enroll.evaluate import LeftOut
    from leaknet.scoring.same_source import SourceComparison


@click.command(cls=LeakCommand)
@opt.images("IMAGE|FOLDER...")
@opt.run
@click.option("--csv", "csv_file", metavar="FILE", help="Write every pair as CSV.")
@click.option(
    "--out",
    metavar="FILE",
    help="The page to write for more than two images. [default: same.html in the run]",
)
@opt.run_vae
@opt.device
@opt.json
@click.pass_obj
def same(settings: Settings, /, **options: Any) -> None:
    """Compare IMAGEs and the images in FOLDERs: does each pair have the same source?

    The likelihood ratio of the run's two-covariance model (preset best), calibrated on pairs of
    generators left out of training: it needs no known generator. Of more than two images, a page
    shows the matrix and the dendrogram.
    JSON keys: run, calibration.* (slope, offset, low, high, cut, auroc, cllr, images,
    generators), rejected[] (path, reason), page, pairs[] with first, second, log10_lr, chance (at
    even prior odds), verbal and answer (same, different or unsure).

    \b
    Example:
      leak same first.png second.png
      leak same suspects/ --csv pairs.csv --out suspects.html
    """
    run = checked_run(options["run"], settings.runs)
    page, table = _outputs(options, run / "same.html")
    found = _comparison(run, options)

    from leaknet.report.comparison_pages import print_comparison, write_comparison, write_pairs

    if table:
        write_pairs(found.pairs(), table)
    drawn = len(found) > 2 or bool(options["out"])
    if drawn:
        write_comparison(found, run, page)
    if options["as_json"]:
        head = {"run": str(run), **found.facts(), "page": str(page) if drawn else None}
        emit({**head, "pairs": [asdict(pair) for pair in found.pairs()]})
        return
    print_comparison(found)
    if drawn:
        click.echo(f"{page}")
    next_steps(["score", *options["images"], "--run", str(run)])


@click.command(cls=LeakCommand)
@opt.images("FOLDER|IMAGE...")
@opt.run
@click.option("--csv", "csv_file", metavar="FILE", help="Write path and cluster of every image.")
@click.option(
    "--out", metavar="FILE", help="The page to write. [default: clusters.html in the run]"
)
@opt.run_vae
@opt.device
@opt.json
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
    run = checked_run(options["run"], settings.runs)
    page, table = _outputs(options, run / "clusters.html")
    compared = _comparison(run, options)

    from leaknet.report.comparison_pages import print_clusters, write_clusters, write_csv
    from leaknet.scoring.same_source import Clustering

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


def _outputs(options: dict[str, Any], page: Path) -> tuple[Path, Path | None]:
    """The page and the CSV file that a command writes; both can be written."""
    page = Path(options["out"]) if options["out"] else page
    table = Path(options["csv_file"]) if options["csv_file"] else None
    for path in (page, table):
        check_output(path)
    return page, table


def _comparison(run: Path, options: dict[str, Any]) -> SourceComparison:
    """The comparison of the images that a command names."""
    images = find_images(options["images"])
    from leakcache.device import resolve_device
    from leaknet.scoring.same_source import compare_images
    from leaknet.training.run_folder import RunFolder

    device = resolve_device(options["device"])
    model = RunFolder(run).load_model(device)
    return compare_images(model, images, vae=options["autoencoder"], device=str(device))


@click.command(cls=LeakCommand)
@click.argument("name", required=False)
@click.argument("folder", required=False, callback=opt.copy_urls)
@opt.run
@click.option("--shots", type=click.IntRange(3), help="Images to use. [default: all of FOLDER]")
@click.option("--undo", is_flag=True, help="Remove the newest version of the run instead.")
@click.option(
    "--evaluate",
    "evaluate",
    is_flag=True,
    help="Evaluate: leave each generator out of training, enrol it from 1, 5, 10 and 50 images.",
)
@opt.cache
@opt.run_vae
@opt.device
@opt.json
@click.pass_obj
def enroll(settings: Settings, /, **options: Any) -> None:
    """Enrol generator NAME from the images in FOLDER, as a new version of a run.

    The new class is scored by its likelihood ratio under the two-covariance model of statistics,
    and by k-means prototypes in a branch without one; class moments, detectors and calibration are
    refitted. The version RUN@2, RUN@3, ... beside RUN is a complete run and the
    default of later commands; RUN does not change. About 0.3 of the images are held out, by
    prompt, for calibration.
    JSON keys: run, from, name, images.train, images.val, rejects, new.val_top1, old.fold,
    old.before.*, old.after.* (top1, balanced, macro_auc), old.lost; with --undo removed, run;
    with --evaluate run, folder, mean[] (shots, recall, before, after, loss, balanced) and
    generators[].

    \b
    Example:
      leak enroll midjourney-7 new-images/ --shots 10
      leak enroll --undo
      leak enroll --evaluate --run runs/mine
    """
    run = run_folder(options["run"], settings.runs)
    if options["undo"]:
        _undo(run, options, settings)
    elif options["evaluate"]:
        _evaluate(run, options, settings)
    elif options["name"] is None or options["folder"] is None:
        raise click.UsageError("give NAME and FOLDER, or --undo, or --evaluate")
    else:
        _enroll(run, options, settings)


def _enroll(run: Path, options: dict[str, Any], settings: Settings) -> None:
    check_run(run)
    find_images([options["folder"]])

    from leakcache.device import resolve_device
    from leaknet.enroll import enroll as enroll_run

    result = enroll_run(
        run,
        options["name"],
        Path(options["folder"]),
        shots=options["shots"],
        vae=options["autoencoder"],
        device=resolve_device(options["device"]),
    )
    remember(settings.runs, result.run)
    if options["as_json"]:
        emit(result.as_dict())
    else:
        _print(result)
        next_steps(["score", "IMAGE", "--run", str(result.run)])


def _print(result: Enrolment) -> None:
    before, after = result.old.before, result.old.after
    for path, reason in result.rejects:
        click.echo(f"rejected: {path}: {reason}")
    click.echo(
        f"{result.run}: {result.name} enrolled from {result.images['train']} images; "
        f"{result.recall:.0%} of {result.images['val']} held-out images are classified as it"
    )
    click.echo(
        f"old generators, {result.old.fold} fold: top-1 {before['top1']:.3f} before, "
        f"{after['top1']:.3f} after; macro AUC {before['macro_auc']:.3f}, "
        f"{after['macro_auc']:.3f}; {result.old.lost:.1%} are now called {result.name}"
    )
    click.echo(f"{result.origin} is unchanged; `leak enroll --undo` returns to it")


def _undo(run: Path, options: dict[str, Any], settings: Settings) -> None:
    from leaknet.enroll import undo

    removed, origin = undo(run)
    if origin.is_dir():
        remember(settings.runs, origin)
    if options["as_json"]:
        emit({"removed": str(removed), "run": str(origin)})
    else:
        click.echo(f"removed {removed}; back to {origin}")
        next_steps(["score", "IMAGE", "--run", str(origin)])


def _evaluate(run: Path, options: dict[str, Any], settings: Settings) -> None:
    from leakcache.device import resolve_device
    from leaknet.commands.score import closed_cache
    from leaknet.enroll.evaluate import evaluate_enrolment, summary
    from leaknet.model.run_record import RunRecord

    folder = run.with_name(f"{run.name}-enrolment")
    rows = evaluate_enrolment(
        RunRecord.read(run).config,
        closed_cache(run, options["cache"], settings.caches),
        folder,
        device=resolve_device(options["device"]),
    )
    means = summary(rows)
    if options["as_json"]:
        generators = [vars(row) for row in rows]
        emit({"run": str(run), "folder": str(folder), "mean": means, "generators": generators})
    else:
        _print_evaluation(rows, means)
        next_steps(["enroll", "NAME", "FOLDER", "--run", str(run)])


def _print_evaluation(rows: list[LeftOut], means: list[dict[str, Any]]) -> None:
    for row in rows:
        click.echo(
            f"{row.generator}, {row.shots} shots: recall {row.recall:.3f} ± {row.recall_sd:.3f}; "
            f"the others' top-1 {row.before:.3f} before, {row.after:.3f} after"
        )
    for mean in means:
        click.echo(
            f"mean, {mean['shots']} shots: recall {mean['recall']:.3f}; the others' top-1 "
            f"{mean['before']:.3f} before, {mean['after']:.3f} after; balanced over all "
            f"{mean['balanced']:.3f}"
        )
