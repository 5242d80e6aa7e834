"""`leak score`: the test fold and an open set of a run, or images straight from files."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from leakcache.dataset.image_files import find_images
from leaknet.commands import options as opt
from leaknet.commands.defaults import LeakCommand, Settings, cache_folder
from leaknet.commands.output import emit, next_steps
from leaknet.commands.preflight import (
    check_output,
    check_roots,
    check_same_classes,
    checked_run,
)

if TYPE_CHECKING:
    from leakcache.store.cache import Cache
    from leaknet.scoring.predict import Predictor


@click.command(cls=LeakCommand)
@opt.images("[IMAGE|FOLDER|URL]...", required=False)
@opt.run
@opt.cache
@click.option("--kde", is_flag=True, help="Open set: exact Gaussian KDE (the default detector).")
@click.option(
    "--detectors",
    metavar="NAMES",
    help="Open-set detectors, comma-separated; or all. KDE is reported where it is among them.",
)
@opt.open_roots
@opt.alpha
@click.option(
    "--stability",
    is_flag=True,
    help="Unsure where re-encoding, rescaling or flipping an IMAGE (8 variants) alters the answer.",
)
@click.option(
    "-v",
    "--verbose",
    is_flag=True,
    help="Also print p-value, likelihood ratio, raw scores and reason of each IMAGE.",
)
@click.option("--csv", "csv_file", metavar="FILE", help="Write the scores of IMAGEs as CSV.")
@opt.run_vae
@opt.fill
@opt.force
@opt.device
@opt.memory
@opt.json
@click.pass_obj
def score(settings: Settings, /, **options: Any) -> None:
    """Score a run, or IMAGEs and FOLDERs with a run.

    Without IMAGE: the closed test fold, and with --kde or --detectors the open set.
    JSON keys: closed.top1, closed.macro_auc, closed.balanced, closed.per_class_auc,
    closed.confusion, closed.mahalanobis.*, open.auroc, open.eer, open.fpr95, open.aupr,
    open.ovl, open.GENERATOR.*, open.mean.*, open.worst.*, detectors.NAME.*; every group has
    95 % intervals, clustered by prompt group, under `interval`.

    For each IMAGE one line: known: X, of the X family (families.toml in the run), unknown
    generator, or unsure, at the false-alarm rate --alpha, or outside the calibrated range for a
    blank image or a score far below all that calibration saw; the likeliest generator; those that
    can't be excluded. It needs the run folder and its autoencoder, but no cache.
    JSON keys: run, alpha, detector (the one that decides), calibration (images, groups, smallest_p,
    outside_below (score), false_alarms.*, temperature, ece_before, ece_after, cllr, min_cllr,
    log10_lr_range.GENERATOR), images[] with path, reason (why it was not scored), verdict (known,
    family, unknown, unsure or outside), answer, explanation, generator (likeliest), probability,
    family (likeliest), family_probability, known, p_value (at least 1 / (n + 1) for n calibrating
    images), prediction_set, verbal, log10_lr.GENERATOR, probabilities.GENERATOR, scores.DETECTOR,
    stability.same, stability.of, stability.variants.NAME, origin.claims[] (field, value),
    origin.generated, conflict. The last three are what the file says of its origin, shown beside
    the answer: no score depends on them.

    \b
    Example:
      leak score --kde
      leak score --kde --open photos-of-unknown-generators/
      leak score suspect.png folder/ --stability --alpha .1 --csv scores.csv
      leak score s3://bucket/suspect.png s3://bucket/folder
    """
    run = checked_run(options["run"], settings.runs)
    if options["cache"] is not None:
        check_same_classes(run, Path(options["cache"]))
    check_roots(options["open_roots"])
    if options["images"]:
        _score_images(run, options)
    else:
        _score_run(run, options, settings)


def _names(options: dict[str, Any]) -> list[str]:
    named = [name.strip() for name in (options["detectors"] or "").split(",") if name.strip()]
    return (["kde"] if options["kde"] else []) + [
        n for n in named if n != "kde" or not options["kde"]
    ]


def closed_cache(run: Path, cache: str | None, caches: Path) -> Cache:
    """The cache that a run was trained on: as named, else as the run remembers it.

    Raises:
        CacheError: it is not there, or its images have changed since.
    """
    from leakcache.store.cache import open_current
    from leaknet.model.run_record import RunRecord

    if cache is not None:
        return open_current(Path(cache) / "closed")
    trained_on = RunRecord.read(run).cache
    if trained_on and Path(trained_on.folder).is_dir():
        return open_current(Path(trained_on.folder))
    return open_current(cache_folder(None, caches) / "closed")


def _score_run(run: Path, options: dict[str, Any], settings: Settings) -> None:
    from leakcache.device import resolve_device
    from leakcache.store.build import ensure_columns, open_set_builds
    from leaknet.model.run_record import RunRecord
    from leaknet.report.terminal import print_scores
    from leaknet.scoring.fitted_detectors import detectors_named
    from leaknet.scoring.score_run import score_run

    closed = closed_cache(run, options["cache"], settings.caches)
    names = _names(options) or (["kde"] if options["open_roots"] else [])
    kinds = detectors_named(names)
    device, roots, unknown = resolve_device(options["device"]), options["open_roots"], []
    columns = RunRecord.read(run).config.columns(training=False)
    ensure_columns([closed], columns, str(device), fill=options["fill"])
    if kinds:
        unknown = [build.cache for build in open_set_builds(closed, roots, str(device))]
        if not unknown:
            click.echo(
                f"{closed.manifest.data} has no open set: closed-set figures only; name unknown "
                "generators by --open",
                err=True,
            )
            kinds = ()
        ensure_columns(unknown, columns, str(device), fill=options["fill"])
    scores = score_run(run, closed, unknown, kinds, device, force=options["force"])
    if options["as_json"]:
        emit(scores.as_dict())
    else:
        print_scores(scores)
        next_steps(["report", str(run)], ["score", "IMAGE", "--run", str(run)])


def _score_images(run: Path, options: dict[str, Any]) -> None:
    find_images(options["images"])
    table = Path(options["csv_file"]) if options["csv_file"] else None
    check_output(table)

    from leaknet.report.terminal import print_images
    from leaknet.scoring.answers import write_csv
    from leaknet.scoring.predict import Predictor

    predictor = Predictor(
        run,
        detectors=_names(options) or ["kde"],
        vae=options["autoencoder"],
        device=options["device"],
    )
    answers = predictor.score(
        options["images"], alpha=options["alpha"], stability=options["stability"]
    )
    if table:
        write_csv(answers, table)
    if options["as_json"]:
        emit(answers.as_dict())
    else:
        verbose, given = options["verbose"], options["run"] is not None
        print_images(answers, _words(predictor, given=given), verbose=verbose)
        again = ["score", options["images"][0], "--run", str(run)]
        more = [("-v", verbose), ("--stability", options["stability"])]
        steps = [*([*again, flag] for flag, taken in more if not taken), ["runs"]]
        next_steps(*steps[:2])
    if all(answer.reason for answer in answers):
        sys.exit(1)


def _words(predictor: Predictor, *, given: bool) -> str:
    config, known = predictor.model.config, ", ".join(predictor.classes)
    default = "" if given else "the default; "
    settings = f"preset {config.preset}, seed {config.train.seed}"
    return f"{predictor.run} ({default}{settings}; known: {known})"
