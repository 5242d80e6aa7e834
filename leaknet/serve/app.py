"""The FastAPI app: a page, `POST /v1/score`, `POST /v1/explain`, `/healthz` and `/metrics`.

It writes nothing, sends nothing to third parties, and names of uploaded files are only shown.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from importlib.metadata import version
from importlib.resources import files
from typing import Any, Literal, TypeVar
from urllib.parse import urlsplit

from fastapi import APIRouter, FastAPI, HTTPException, Query, Request, Response
from fastapi.responses import HTMLResponse, PlainTextResponse, StreamingResponse

from leakcache.errors import DataError, ImageError
from leakcache.files import json_line, json_text
from leaknet.scoring.answers import Answers
from leaknet.scoring.predict import Predictor
from leaknet.serve.requests import FIELD, Busy, Jobs, Limits, received

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


Result = TypeVar("Result")
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


def api_routes(jobs: Jobs, limits: Limits) -> APIRouter:
    """`POST /v1/score` and `POST /v1/explain`."""
    router = APIRouter(prefix="/v1")

    @router.post("/score", openapi_extra=_BODY, responses=_REFUSALS)
    async def score(
        request: Request,
        alpha: float = Query(0.05, gt=0, lt=1, description="False-alarm rate."),
        stability: bool = Query(False, description="Also score eight mild changes of each image."),
        stream: bool = Query(
            False,
            description="Answer with lines of JSON as images are scored: each as a whole answer, "
            "with the `total` of images.",
        ),
    ) -> Response:
        """Score images; the answer is that of `leak score IMAGE --json`."""
        parts = _parts(request, jobs, limits, alpha, stability=stability)
        first = await _first(parts)
        if stream:
            return StreamingResponse(_lines(first, parts), media_type="application/x-ndjson")
        answers = [first[1], *[part async for _, part in parts]]
        whole = replace(answers[0], images=tuple(one for part in answers for one in part))
        return Response(json_text(whole.as_dict()), media_type="application/json")

    @router.post("/explain", openapi_extra=_BODY, responses=_REFUSALS)
    async def explain(
        request: Request,
        alpha: float = Query(0.05, gt=0, lt=1, description="False-alarm rate."),
        name: str = Query("", description="Which image, where several are sent: its `path`."),
        form: Literal["html", "json"] = Query("html", alias="format"),
    ) -> Response:
        """Explain the answer to one image; the page, or the numbers, of `leak explain`."""
        return await _first(_explained(request, jobs, limits, alpha, name, form))

    return router


async def _first(results: AsyncIterator[Result]) -> Result:
    """The first result; errors become refusals."""
    try:
        return await anext(results)
    except Busy:
        raise HTTPException(
            429, "too many requests wait: try again later", {"Retry-After": "5"}
        ) from None
    except (DataError, ImageError) as error:
        raise HTTPException(400, str(error)) from error


async def _parts(
    request: Request, jobs: Jobs, limits: Limits, alpha: float, *, stability: bool
) -> AsyncIterator[tuple[int, Answers]]:
    """Number of images of the request, and answers, some images at a time."""
    with jobs.slot():
        uploads = await received(request, jobs, limits)
        parts = jobs.parts(uploads, alpha, stability=stability)
        # Each part is a job of its own, so that requests take turns and none is scored in vain.
        while (part := await jobs.run(lambda: next(parts, None))) is not None:
            yield len(uploads), part


async def _lines(
    first: tuple[int, Answers], rest: AsyncIterator[tuple[int, Answers]]
) -> AsyncIterator[str]:
    """Parts as lines of JSON."""
    total, part = first
    yield json_line({**part.as_dict(), "total": total}) + "\n"
    async for total, part in rest:
        yield json_line({**part.as_dict(), "total": total}) + "\n"


async def _explained(
    request: Request, jobs: Jobs, limits: Limits, alpha: float, name: str, form: str
) -> AsyncIterator[Response]:
    """The explanation of the one image of a request that has a name, or the only one."""
    with jobs.slot():
        uploads = await received(request, jobs, limits)
        chosen = [upload for upload in uploads if name in ("", upload.name)]
        if len(chosen) != 1:
            raise DataError(f"{len(chosen)} images to explain: send one, or its `name` too")
        if chosen[0].reason:
            raise ImageError(f"{chosen[0].name}: {chosen[0].reason}")
        text = await jobs.run(lambda: jobs.explain(chosen[0], alpha, form))
        kind = "text/html" if form == "html" else "application/json"
        yield Response(text, media_type=kind)
