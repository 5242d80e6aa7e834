"""`leak push`: a run to the hub, with a model card."""

from __future__ import annotations

from pathlib import Path

import click

from leaknet.commands.defaults import LeakCommand
from leaknet.commands.options import emit, json_option, next_steps
from leaknet.commands.preflight import check_run


@click.command(cls=LeakCommand)
@click.argument("run")
@click.argument("target", metavar="OWNER/NAME|FOLDER")
@click.option("--private", is_flag=True, help="Create a private repository.")
@json_option
def push(run: str, target: str, private: bool, as_json: bool) -> None:
    """Push RUN to a repository of the hub, or into a FOLDER, with a model card.

    The card, README.md in the run, is written where there is none: data, leak controls, figures
    with intervals, intended use, limits. State the licence in it and push again. What is pushed
    holds no images, but names and SHA-256 of the images of the run (embeddings.h5). The
    autoencoder is not pushed. Sign in with `hf auth login`.
    JSON keys: place, files[].

    \b
    Example:
      leak push runs/best ./best-run
      leak push runs/best me/leak-best
      leak score image.png --run me/leak-best
    """
    check_run(Path(run))

    from leaknet.hub.runs import push_run

    place, files = push_run(Path(run), target, private=private)
    if as_json:
        emit({"place": place, "files": files})
        return
    click.echo(f"{place}: {', '.join(files)}")
    next_steps(["score", "IMAGE", "--run", target])
