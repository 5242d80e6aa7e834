"""Routes that score and explain images."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any, Literal, TypeVar

from fastapi import APIRouter, HTTPException, Query, Request, Response
from fastapi.responses import StreamingResponse

from leakcache.errors import DataError, ImageError
from leakcache.files import json_line, json_text
from leaknet.scoring.answers import Answers
from leaknet.serve.jobs import Busy, Jobs
from leaknet.serve.receive import FIELD, received
from leaknet.serve.uploads import Limits

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
