"""The FastAPI app: a page, `POST /v1/score`, `POST /v1/explain`, `/healthz` and `/metrics`.

It writes nothing, sends nothing to third parties, and names of uploaded files are only shown.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from importlib.metadata import version
from urllib.parse import urlsplit

from fastapi import FastAPI, Request, Response
from fastapi.responses import PlainTextResponse

from leaknet.scoring.predict import Predictor
from leaknet.serve.api import api_routes
from leaknet.serve.jobs import Jobs
from leaknet.serve.limits import Limits
from leaknet.serve.pages import page_routes

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
