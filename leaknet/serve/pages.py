"""Routes of the page, of the state of the server, and of its counts."""

from __future__ import annotations

import secrets
from importlib.resources import files
from typing import Any

from fastapi import APIRouter
from fastapi.responses import HTMLResponse, PlainTextResponse

from leaknet.scoring.predict import Predictor
from leaknet.serve.jobs import Jobs

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
