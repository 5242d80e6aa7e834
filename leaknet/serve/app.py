"""The FastAPI app: a page, `POST /v1/score`, `POST /v1/explain`, `/healthz` and `/metrics`.

It writes nothing, sends nothing to third parties, and names of uploaded files are only shown.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from importlib.metadata import version
from importlib.resources import files
from typing import Any
from urllib.parse import urlsplit

from fastapi import APIRouter, FastAPI, Request, Response
from fastapi.responses import HTMLResponse, PlainTextResponse

from leaknet.scoring.predict import Predictor
from leaknet.serve.api import api_routes
from leaknet.serve.jobs import Jobs
from leaknet.serve.uploads import Limits

# Explanations are shown in a frame that inherits this policy; their drawings have style attributes.
POLICY = (
    "default-src 'none'; script-src 'nonce-{nonce}'; style-src 'nonce-{nonce}'; "
    "style-src-attr 'unsafe-inline'; connect-src 'self'; img-src blob: data:; frame-src blob:; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)


def page_routes(predictor: Predictor, jobs: Jobs, token: bool) -> APIRouter:
    """`/`, `/healthz` and `/metrics`; `token` says whether requests need one."""
    router = APIRouter()

    @router.get("/", response_class=HTMLResponse, include_in_schema=False)
    def page() -> HTMLResponse:
        nonce = secrets.token_urlsafe(16)
        html = files("leaknet.serve").joinpath("page.html").read_text(encoding="utf-8")
        policy = {"Content-Security-Policy": POLICY.format(nonce=nonce)}
        return HTMLResponse(html.replace("NONCE", nonce), headers=policy)

    @router.get("/healthz")
    def healthz() -> dict[str, Any]:
        """Whether the server answers, and with which run."""
        classes, run = list(predictor.classes), str(predictor.run)
        return {"status": "ok", "run": run, "known": classes, "token": token}

    @router.get("/metrics", response_class=PlainTextResponse)
    def metrics() -> str:
        """Counts of requests and images, as Prometheus reads them."""
        return jobs.metrics()

    return router


LOOPBACK = ("127.0.0.1", "localhost", "::1")
Handler = Callable[[Request], Awaitable[Response]]


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
    app.middleware("http")(_guard(jobs, token))
    app.include_router(page_routes(predictor, jobs, bool(token)))
    app.include_router(api_routes(jobs, limits))
    return app


def _guard(jobs: Jobs, token: str) -> Callable[[Request, Handler], Awaitable[Response]]:
    """Refuses what may not ask, sets headers, and counts."""

    async def guard(request: Request, call_next: Handler) -> Response:
        start = time.monotonic()
        refusal = _refusal(request, token)
        response = refusal or await call_next(request)
        response.headers["X-Content-Type-Options"] = "nosniff"
        response.headers["Referrer-Policy"] = "no-referrer"
        response.headers["Cache-Control"] = "no-store"
        jobs.count(response.status_code, time.monotonic() - start)
        return response

    return guard


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
