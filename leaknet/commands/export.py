"""`leak export` and `leak push`: a run as ONNX graphs with a scorer, and on the hub."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from leaknet.commands import options as opt
from leaknet.commands.defaults import LeakCommand, Settings
from leaknet.commands.output import emit, next_steps
from leaknet.commands.preflight import check_run, checked_run


@click.command(cls=LeakCommand)
@click.argument("run", required=False, metavar="[RUN]")
@click.option(
    "--to",
    "target",
    type=click.Choice(["onnx"]),
    default="onnx",
    help="Format of the graphs.",
)
@click.option("--out", metavar="DIR", help="A new folder. [default: onnx in the run]")
@opt.run_vae
@opt.json
@click.pass_obj
def export(settings: Settings, /, **options: Any) -> None:
    """Write RUN as a folder of ONNX graphs with a scorer.

    The scorer needs onnxruntime, NumPy and Pillow, and gives the answers of `leak score IMAGE`
    with the detector kde, without --stability. `python DIR/scorer.py IMAGE...` prints one JSON
    object a line. Needs the extra [onnx]. [default: the run trained last]
    JSON keys: folder, bytes, files[], columns[].

    \b
    Example:
      leak export runs/best --to onnx --out best-onnx
      python best-onnx/scorer.py suspect.png
    """
    run = checked_run(options["run"] or settings.content.get("run"), settings.runs)
    out = Path(options["out"]) if options["out"] else run / "onnx"

    from leaknet.export.onnx_files import export_onnx

    exported = export_onnx(run, out, options["autoencoder"])
    files = sorted(path for path in out.rglob("*") if path.is_file())
    size = sum(path.stat().st_size for path in files)
    if options["as_json"]:
        names = [str(path.relative_to(out)) for path in files]
        emit({"folder": str(out), "bytes": size, "files": names, "columns": exported["columns"]})
        return
    click.echo(f"{out} ({size / 1e6:.1f} MB; reads {', '.join(exported['columns'])})")
    if (precision := exported["precision"]) != "fp32":
        click.echo(
            f"the encoder is exported in fp32, the run encodes in {precision}: probabilities "
            "differ by some .01 (docs/EXPORT.md)",
            err=True,
        )
    click.echo(f"next: python {out / 'scorer.py'} IMAGE")


@click.command(cls=LeakCommand)
@click.argument("run")
@click.argument("target", metavar="OWNER/NAME|FOLDER")
@click.option("--private", is_flag=True, help="Create a private repository.")
@opt.json
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
