"""`leak export`: a run as ONNX graphs with a scorer that needs neither torch nor leak."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from leaknet.commands.defaults import LeakCommand, Settings, run_folder
from leaknet.commands.options import emit, json_option
from leaknet.commands.preflight import check_run


@click.command(cls=LeakCommand)
@click.argument("run", required=False, metavar="[RUN]")
@click.option(
    "--to",
    "target",
    type=click.Choice(["onnx"]),
    default="onnx",
    show_default=True,
    help="Format of the graphs.",
)
@click.option("--out", metavar="DIR", help="A new folder. [default: onnx in the run]")
@click.option(
    "--vae",
    "autoencoder",
    metavar="NAME|PATH|ID",
    help="Where the run's autoencoder lies now. [default: where it was in training]",
)
@json_option
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
    run = run_folder(options["run"] or settings.content.get("run"), settings.runs)
    check_run(run)
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
            f"the encoder is exported in fp32, the run encodes in {precision}: answers differ "
            "slightly",
            err=True,
        )
    click.echo(f"next: python {out / 'scorer.py'} IMAGE")
