"""`leak explain`: why a run answers as it does for single images."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from leakcache.dataset.image_files import find_images
from leakcache.names import visible
from leaknet.commands import options as opt
from leaknet.commands.defaults import LeakCommand, Settings
from leaknet.commands.output import emit, next_steps
from leaknet.commands.preflight import checked_run

if TYPE_CHECKING:
    from leaknet.explain import Explanation


@click.command(cls=LeakCommand)
@click.argument(
    "images", nargs=-1, required=True, metavar="IMAGE|FOLDER...", callback=opt.copy_urls
)
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
