"""`leak demo`: everything on a part of the bundled sample, in one go."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from leaknet.commands import options as opt
from leaknet.commands.defaults import LeakCommand, Settings, remember, sample_root
from leaknet.commands.output import emit, next_steps

if TYPE_CHECKING:
    from leakcache.dataset.index import DatasetIndex

PROMPTS = {"train": 8, "val": 8, "test": 5}
"""Prompts that are read of each fold, a third, but enough of validation to call an image unknown;
of the unknown generators those of validation and test."""
SETTINGS = ("train.epochs=5", "statistics.degraded=false")
"""Changes of the preset `best`: an epoch of so few images is three steps, and degraded copies take
half of the time."""


@click.command(cls=LeakCommand)
@opt.json
@click.pass_obj
def demo(settings: Settings, /, as_json: bool) -> None:
    """Run cache, train, score and report on part of the bundled sample, in a minute.

    Six small latent diffusion models are known generators and two are unknown; the cause of each
    signal leak is documented (data/README.md). Less than half of the prompts are read, by the
    preset best without degraded copies. The figures show that the pipeline works. They do not hold
    for real generators.
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
    cache, run = settings.caches / "demo", settings.runs / "demo"
    device = resolve_device("auto")
    precision = quick_precision(device)
    encoder = Encoder.load("bundled", device=str(device), precision=precision)
    index = some_prompts(read_index(sample_root()))
    config = preset("best").with_overrides(SETTINGS)
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
    next_steps(
        ["score", str(sample_root() / unknown.paths[0])],
        ["report", str(run)],
        ["cache", "build", "--data", "FOLDER", "--split", "closed"],
    )


def some_prompts(index: DatasetIndex) -> DatasetIndex:
    """The images of `PROMPTS`, of all generators."""
    kept = {
        fold: sorted({record.group for record in index.records if record.fold == fold})[:count]
        for fold, count in PROMPTS.items()
    }
    kept["open"] = [*kept["val"], *kept["test"]]
    return replace(index, records=tuple(r for r in index.records if r.group in kept[r.fold]))


def _print_places(cache: Path, run: Path, page: Any, seconds: float) -> None:
    click.echo(f"cache   {cache}")
    click.echo(f"run     {run} (weights, scorers, embeddings, metrics.json, scores.csv)")
    click.echo(f"report  {page}")
    click.echo(f"{seconds:.0f} s in all")
