"""`leak serve`: score images on a local page or through HTTP."""

from __future__ import annotations

import ipaddress
import secrets
import socket
from typing import Any

import click

from leakcache.errors import ConfigError
from leaknet.commands import options as opt
from leaknet.commands.defaults import LeakCommand, Settings
from leaknet.commands.preflight import checked_run


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
