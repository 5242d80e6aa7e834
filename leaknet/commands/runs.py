"""`leak runs`, `compare`, `export`, `push` and `serve`: what is done with trained runs."""

from __future__ import annotations

import ipaddress
import secrets
import socket
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import click

from leakcache.errors import ConfigError, LeakError, RunError
from leakcache.files import parse_json, parse_toml
from leakcache.names import visible
from leaknet.checksums import is_there, read_text
from leaknet.commands import options as opt
from leaknet.commands.base import LeakCommand, Settings, emit, latest, next_steps, remember
from leaknet.commands.preflight import check_run, checked_run


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

    from leaknet.experiments.evaluation import compare_runs, comparison_table
    from leaknet.experiments.tables import print_grids
    from leaknet.scoring.run_embeddings import detectors_named

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

    from leaknet.export.hub import push_run

    place, files = push_run(Path(run), target, private=private)
    if as_json:
        emit({"place": place, "files": files})
        return
    click.echo(f"{place}: {', '.join(files)}")
    next_steps(["score", "IMAGE", "--run", target])


@click.command(cls=LeakCommand)
@opt.run
@click.option("--host", default="127.0.0.1", help="Address to listen on.")
@click.option(
    "--port",
    type=click.IntRange(0, 65535),
    default=8000,
    help="Port to listen on; 0 takes a free one.",
)
@click.option(
    "--token",
    envvar="LEAK_TOKEN",
    default="",
    show_default=False,
    help="Secret that requests must carry. [default: none on 127.0.0.1, else a random one]",
)
@opt.run_vae
@opt.device
@click.pass_obj
def serve(settings: Settings, /, **options: Any) -> None:
    """Serve a page that scores images dropped on it, and an HTTP API.

    POST /v1/score takes images and ZIP files of images as multipart form data (field `files`,
    query alpha and stability) and answers as `leak score IMAGE --json`; stream=true gives lines of
    JSON as images are scored. POST /v1/explain gives the page of `leak explain` for one image. GET
    /healthz, /metrics (Prometheus) and /openapi.json. Uploads stay in memory and temporary files;
    nothing is sent elsewhere. Limits: 128 MiB and 64 images a request, 64 MiB and 50 megapixels an
    image, 16 waiting requests (then status 429), 120 s. Other addresses than this machine's own
    need a token, sent as `Authorization: Bearer TOKEN`; put a proxy with TLS in front there.

    \b
    Example:
      leak serve
      curl -F files=@suspect.png http://127.0.0.1:8000/v1/score
    """
    run = checked_run(options["run"], settings.runs)
    host, port = options["host"], options["port"]
    token = options["token"] or ("" if _is_loopback(host) else secrets.token_urlsafe(16))
    try:
        import uvicorn

        from leaknet.serve.app import create_app
    except ModuleNotFoundError as error:
        raise ConfigError(
            f'leak serve needs {error.name}: pip install "leaknet[ui]" installs it'
        ) from error
    from leaknet.scoring.predict import Predictor

    predictor = Predictor(run, vae=options["autoencoder"], device=options["device"])
    app = create_app(predictor, token=token)
    _ = predictor.encoder  # loaded now, so that the first request is as fast as the others
    config = uvicorn.Config(app, log_level="warning", server_header=False, limit_concurrency=256)
    with _listen(host, port) as listener:
        address = _url(host, listener.getsockname()[1])
        click.echo(f"run {run} at {address} (Ctrl-C stops)")
        if token:
            click.echo(f"token: {token}")
        header = f"-H 'Authorization: Bearer {token}' " if token else ""
        click.echo(f"next: curl {header}-F files=@IMAGE {address}/v1/score")
        try:
            uvicorn.Server(config).run(sockets=[listener])
        except KeyboardInterrupt:
            click.echo("stopped", err=True)


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _listen(host: str, port: int) -> socket.socket:
    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        return socket.create_server((host, port), family=family)
    except OSError as error:
        raise ConfigError(
            f"{host} port {port} cannot be listened on ({error.strerror}): give another --host or "
            "--port"
        ) from error


def _url(host: str, port: int) -> str:
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


CONFIG = "config.toml"
_FIGURES = {"top1": "closed", "macro_auc": "closed", "auroc": "open"}


@dataclass(frozen=True)
class RunSummary:
    """One run folder in a line.

    Attributes:
        path: the folder.
        data: name of the cache it was trained on; empty if not recorded.
        preset, seed: its settings.
        generators: number of known generators.
        fold: "test" if it was scored, "val" if only trained, else empty.
        figures: top1, macro_auc (of that fold) and auroc (of the open set), where measured.
        trained: local time of the last change to the weights, to the minute.
    """

    path: Path
    data: str
    preset: str
    seed: int
    generators: int
    fold: str
    figures: dict[str, float]
    trained: str

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {**vars(self), "path": str(self.path)}


def find_runs(parent: Path) -> tuple[list[RunSummary], list[str]]:
    """Trained runs directly below a folder, the newest first, and what is wrong with the others."""
    found, damaged = [], []
    for config in sorted(parent.glob(f"*/{CONFIG}")):
        if not (config.parent / "model.safetensors").exists():
            continue  # not trained yet
        try:
            found.append(_summary(config.parent))
        except (LeakError, OSError, ValueError, KeyError, TypeError) as error:
            reason = error if isinstance(error, LeakError) else "`leak train` again"
            damaged.append(visible(f"{config.parent} is damaged: {reason}"))
    return sorted(found, key=lambda run: (run.trained, run.path.name), reverse=True), damaged


def _summary(folder: Path) -> RunSummary:
    table = parse_toml(read_text(folder / CONFIG))
    metrics_file = folder / "metrics.json"
    metrics = parse_json(read_text(metrics_file)) if is_there(metrics_file) else {}
    closed = metrics.get("closed") or metrics.get("validation") or {}
    groups = {"closed": closed, "open": metrics.get("open") or {}}
    cache = table["record"].get("cache")
    changed = (folder / "model.safetensors").stat().st_mtime
    return RunSummary(
        path=folder,
        data=Path(cache["folder"]).parent.name if cache else "",
        preset=table["preset"],
        seed=table["train"]["seed"],
        generators=len(parse_json(read_text(folder / "classes.json"))),
        fold="test" if "closed" in metrics else "val" if closed else "",
        figures={k: groups[g][k] for k, g in _FIGURES.items() if groups[g].get(k) is not None},
        trained=datetime.fromtimestamp(changed).isoformat(" ", "minutes"),
    )
