"""The FastAPI app: a page, `POST /v1/score`, `/healthz`, `/metrics` and `/openapi.json`.

It writes nothing, sends nothing to third parties, and names of uploaded files are only shown.
"""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from importlib.metadata import version
from importlib.resources import files
from typing import Any, cast
from urllib.parse import urlsplit

from fastapi import FastAPI, HTTPException, Query, Request, Response
from fastapi.responses import HTMLResponse, PlainTextResponse
from starlette.datastructures import UploadFile
from starlette.types import Message, Receive

from leakcache.errors import DataError
from leakcache.files import json_text
from leaknet.scoring.predict import Predictor
from leaknet.serve.jobs import Busy, Jobs
from leaknet.serve.limits import Limits
from leaknet.serve.uploads import read_uploads

LOOPBACK = ("127.0.0.1", "localhost", "::1")
FIELD = "files"
DRAINED = 4
"""Request limits that are received, and dropped, of a request that is too large."""
_BODY: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "content": {
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "required": [FIELD],
                    "properties": {
                        FIELD: {
                            "type": "array",
                            "items": {"type": "string", "format": "binary"},
                            "description": "Images, or ZIP files of images.",
                        }
                    },
                }
            }
        },
    }
}
_REFUSALS: dict[int | str, dict[str, Any]] = {
    400: {"description": "No images, or too many."},
    401: {"description": "No token, or a wrong one."},
    403: {"description": "A request of another site."},
    408: {"description": "The request was not received in time."},
    413: {"description": "The request has too many bytes."},
    429: {"description": "Too many requests wait; try again later."},
}


def create_app(predictor: Predictor, limits: Limits | None = None, token: str = "") -> FastAPI:
    """The app of one run.

    Args:
        predictor: scores the images.
        limits: of requests.
        token: that requests must carry as `Authorization: Bearer TOKEN`. Without one, only
            requests to a loopback name are answered, and none of other sites.
    """
    limits = limits or Limits()
    jobs = Jobs(predictor, limits)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        yield
        jobs.close()

    app = FastAPI(
        title="leak", version=version("leaknet"), docs_url=None, redoc_url=None, lifespan=lifespan
    )

    @app.middleware("http")
    async def guard(
        request: Request, call_next: Callable[[Request], Awaitable[Response]]
    ) -> Response:
        start = time.monotonic()
        refusal = _refusal(request, token)
        response = refusal or await call_next(request)
        response.headers["X-Content-Type-Options"] = "nosniff"
        response.headers["Referrer-Policy"] = "no-referrer"
        response.headers["Cache-Control"] = "no-store"
        jobs.count(response.status_code, time.monotonic() - start)
        return response

    @app.get("/", response_class=HTMLResponse, include_in_schema=False)
    def page() -> HTMLResponse:
        nonce = secrets.token_urlsafe(16)
        html = files("leaknet.serve").joinpath("page.html").read_text(encoding="utf-8")
        policy = (
            f"default-src 'none'; script-src 'nonce-{nonce}'; style-src 'nonce-{nonce}'; "
            "connect-src 'self'; img-src blob: data:; base-uri 'none'; form-action 'none'; "
            "frame-ancestors 'none'"
        )
        return HTMLResponse(
            html.replace("NONCE", nonce), headers={"Content-Security-Policy": policy}
        )

    @app.get("/healthz")
    def healthz() -> dict[str, Any]:
        """Whether the server answers, and with which run."""
        classes, run = list(predictor.classes), str(predictor.run)
        return {"status": "ok", "run": run, "known": classes, "token": bool(token)}

    @app.get("/metrics", response_class=PlainTextResponse)
    def metrics() -> str:
        """Counts of requests and images, as Prometheus reads them."""
        return jobs.metrics()

    @app.post("/v1/score", openapi_extra=_BODY, responses=_REFUSALS)
    async def score(
        request: Request,
        alpha: float = Query(0.05, gt=0, lt=1, description="False-alarm rate."),
        stability: bool = Query(False, description="Also score eight mild changes of each image."),
    ) -> Response:
        """Score images; the answer is that of `leak score IMAGE --json`."""
        try:
            with jobs.slot():
                content = await _scored(request, jobs, limits, alpha, stability=stability)
        except Busy:
            raise HTTPException(
                429, "too many requests wait: try again later", {"Retry-After": "5"}
            ) from None
        except DataError as error:
            raise HTTPException(400, str(error)) from error
        return Response(content, media_type="application/json")

    return app


async def _scored(
    request: Request, jobs: Jobs, limits: Limits, alpha: float, *, stability: bool
) -> str:
    """Receive the files of a request, and score them on the thread for it."""
    bounded = Request(request.scope, _bounded(request, limits.request_bytes))
    form = bounded.form(max_files=limits.images, max_fields=0)
    try:
        fields = await asyncio.wait_for(cast("Awaitable[Any]", form), limits.seconds)
    except TimeoutError:
        raise HTTPException(408, f"not received within {limits.seconds:g} s") from None
    try:
        found = [item for item in fields.getlist(FIELD) if isinstance(item, UploadFile)]
        sent = [(item.filename or f"image {row}", item.file) for row, item in enumerate(found, 1)]

        def work() -> str:
            return json_text(
                jobs.score(read_uploads(sent, limits), alpha, stability=stability).as_dict()
            )

        return await asyncio.wrap_future(jobs.submit(work))
    finally:
        await fields.close()


def _bounded(request: Request, limit: int) -> Receive:
    """What receives the body of a request, and refuses one of more bytes than the limit."""
    received = 0

    async def receive() -> Message:
        nonlocal received
        message = await request.receive()
        received += len(message.get("body", b""))
        if received <= limit:
            return message
        # A client reads the refusal only once it has sent its body, so some more is received.
        while message.get("more_body") and received <= DRAINED * limit:
            message = await request.receive()
            received += len(message.get("body", b""))
        raise HTTPException(413, f"more than {limit:,} bytes", {"Connection": "close"})

    return receive


def _refusal(request: Request, token: str) -> Response | None:
    """Why a request is not answered; None where it is."""
    origin = request.headers.get("origin", "")
    if origin and urlsplit(origin).netloc != request.headers.get("host"):
        return PlainTextResponse("requests of other sites are refused", 403)
    if not token:
        if request.url.hostname not in LOOPBACK:
            return PlainTextResponse("ask for 127.0.0.1 or localhost", 403)
        return None
    given = request.headers.get("authorization", "").removeprefix("Bearer ")
    open_to_all = request.method == "GET" and request.url.path in ("/", "/healthz")
    if open_to_all or secrets.compare_digest(given.encode(), token.encode()):
        return None
    return PlainTextResponse("give the token of the server", 401, {"WWW-Authenticate": "Bearer"})
