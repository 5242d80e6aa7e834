"""`leak score` and `leak explain`: how a run answers, and why."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from leakcache.dataset.image_files import find_images
from leakcache.names import visible
from leaknet.commands import options as opt
from leaknet.commands.base import LeakCommand, Settings, cache_folder, emit, next_steps
from leaknet.commands.preflight import check_output, check_roots, check_same_classes, checked_run

if TYPE_CHECKING:
    from leakcache.store.cache import Cache
    from leaknet.explain import Explanation
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
    from leaknet.scoring.run_embeddings import detectors_named
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


@click.command(cls=LeakCommand)
@opt.images("IMAGE|FOLDER...")
@opt.run
@click.option(
    "--out",
    default="explanation",
    metavar="FOLDER",
    help="Where index.html, explanation.json and figures/ are written.",
)
@click.option("--pdf", is_flag=True, help="Also write index.pdf, by Chromium or Chrome.")
@opt.alpha
@opt.run_vae
@opt.device
@opt.json
@click.pass_obj
def explain(settings: Settings, /, **options: Any) -> None:
    """Explain the answers of a run to IMAGEs as one HTML page with figures.

    For each image, what decides between the likeliest known generator and the next one. Statistics
    branch: exact terms of the margin by family and by part of the image, a map of tiles, the
    pattern whose excess supports a generator. Branch of latents: attention over noise steps,
    integrated gradients. Prototypes with their nearest training images, and where the image lies
    among the known ones. Two tests stand beside each map: whether shuffled weights give another
    map, and whether removing what it marks lowers the margin. An image takes some ten seconds.
    JSON keys: run, images[] with path, fold (of a file that the run knows), score.* (as
    `leak score IMAGE`), first, second, margin, weights.*, position.*,
    statistics.contributions.* (families, parts, values, by_group, by_family, by_part, margin,
    original), statistics.boxes, statistics.tiles, statistics.patterns[], statistics.checks.*,
    statistics.prototypes.*, latents.attention, latents.map.*, latents.checks.*,
    latents.prototypes.*; reason for a file that was not explained.

    \b
    Example:
      leak explain suspect.png
      leak explain suspect.png folder/ --run runs/best --out why/
    """
    run = checked_run(options["run"], settings.runs)
    found = find_images(options["images"])

    from leakcache.errors import ImageError
    from leakcache.progress import track
    from leaknet.explain import explain_image
    from leaknet.explain.page import PAGE, write_explanations
    from leaknet.scoring.predict import Predictor

    predictor = Predictor(run, vae=options["autoencoder"], device=options["device"])
    explanations: list[Explanation] = []
    refused: list[dict[str, str]] = []
    with track("explaining", len(found), "images") as advance:
        for path, reason in found:
            try:
                if reason:
                    raise ImageError(f"{path}: {reason}")
                explanations.append(explain_image(predictor, path, options["alpha"]))
            except ImageError as error:
                refused.append({"path": str(path), "reason": str(error)})
            advance(1)
    for row in refused:
        click.echo(visible(f"not explained: {row['reason']}"), err=True)
    if not explanations:
        sys.exit(1)
    config, folder = predictor.model.config, Path(options["out"])
    words = f"{run} (preset {config.preset}, seed {config.train.seed})"
    content = write_explanations(explanations, words, folder, pdf=options["pdf"])
    if options["as_json"]:
        emit({**content, "images": [*content["images"], *refused], "page": str(folder / PAGE)})
    else:
        for one in explanations:
            _print(one)
        click.echo(f"{folder / PAGE}")
        next_steps(["score", options["images"][0], "--run", str(run), "-v"])


def _print(one: Explanation) -> None:
    pair = f"{one.first} against {one.second}: {one.margin:.3f}"
    click.echo(visible(f"{one.path}: {one.score.answer}; {pair}"))
    if one.score.origin:
        words = f"; disagrees: {one.score.conflict}" if one.score.conflict else ""
        click.echo(visible(f"  the file says: {one.score.origin.words}{words}"))
    if one.statistics is not None:
        terms = list(one.statistics.contributions.by_family.items())[:3]
        click.echo("  strongest: " + ", ".join(f"{name} {value:+.3f}" for name, value in terms))
