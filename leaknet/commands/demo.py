"""`leak demo`: everything on the bundled sample, in one go."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import click

from leaknet.commands.defaults import LeakCommand, Settings, remember, sample_root
from leaknet.commands.options import emit, json_option, next_steps

EPOCHS = 12
"""An epoch of the sample is nine steps: the preset's number would hardly move the weights."""


@click.command(cls=LeakCommand)
@json_option
@click.pass_obj
def demo(settings: Settings, /, as_json: bool) -> None:
    """Run cache, train, score and report on the bundled sample, in a few minutes.

    Six small latent diffusion models are known generators and two are unknown; the cause of each
    signal leak is documented (data/README.md). The figures show that the pipeline works. They do
    not hold for real generators.
    JSON keys: those of `leak score`, and cache, report, seconds.

    \b
    Example:
      leak demo
    """
    from leakcache.dataset.index import read_index
    from leakcache.device import quick_precision, resolve_device
    from leakcache.encoder.autoencoder import Encoder
    from leakcache.store.build import build_cache
    from leaknet.config import preset
    from leaknet.detectors import GlobalKDE
    from leaknet.report.page import write_page
    from leaknet.report.terminal import print_scores
    from leaknet.scoring.score_run import prepare_run, score_run
    from leaknet.training.train import train

    start = time.monotonic()
    root, cache, run = sample_root(), settings.caches / "demo", settings.runs / "demo"
    device = resolve_device("auto")
    precision = quick_precision(device)
    encoder = Encoder.load("bundled", device=str(device), precision=precision)
    index = read_index(root)
    config = preset("best").with_overrides([f"train.epochs={EPOCHS}"])
    columns = config.columns()
    closed = build_cache(index, encoder, cache / "closed", columns=columns).cache
    unknown = build_cache(index, encoder, cache / "open", split="open", columns=columns).cache
    train(config, closed, run, device=str(device))
    prepare_run(run, closed, device)
    scores = score_run(run, closed, [unknown], [GlobalKDE], device)
    page = write_page([run])
    for parent, folder in ((settings.caches, cache), (settings.runs, run)):
        remember(parent, folder)
    seconds = time.monotonic() - start
    if as_json:
        places = {"cache": str(cache), "report": str(page), "seconds": round(seconds, 1)}
        emit({**scores.as_dict(), **places})
        return
    print_scores(scores)
    _print_places(cache, run, page, seconds)


def _print_places(cache: Path, run: Path, page: Any, seconds: float) -> None:
    click.echo(f"cache   {cache}")
    click.echo(f"run     {run} (weights, scorers, embeddings, metrics.json, scores.csv)")
    click.echo(f"report  {page}")
    click.echo(f"{seconds:.0f} s in all")
    next_steps(["score", "IMAGE"], ["cache", "build", "--data", "FOLDER", "--split", "closed"])
