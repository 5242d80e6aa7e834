"""Receive the files of a request, within the limits."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from typing import Any, cast

from fastapi import HTTPException, Request
from starlette.datastructures import UploadFile
from starlette.types import Message, Receive

from leaknet.serve.jobs import Jobs
from leaknet.serve.uploads import Limits, Upload, read_uploads

FIELD = "files"
DRAINED = 4
"""Request limits that are received, and dropped, of a request that is too large."""


async def received(request: Request, jobs: Jobs, limits: Limits) -> list[Upload]:
    """The images of a request.

    Raises:
        HTTPException: 408 where they take too long, 413 where they have too many bytes.
        DataError: no images, or too many.
    """
    bounded = Request(request.scope, _bounded(request, limits.request_bytes))
    form = bounded.form(max_files=limits.images, max_fields=0)
    try:
        fields = await asyncio.wait_for(cast("Awaitable[Any]", form), limits.seconds)
    except TimeoutError:
        raise HTTPException(408, f"not received within {limits.seconds:g} s") from None
    try:
        found = [item for item in fields.getlist(FIELD) if isinstance(item, UploadFile)]
        sent = [(item.filename or f"image {row}", item.file) for row, item in enumerate(found, 1)]
        return await jobs.run(lambda: read_uploads(sent, limits))
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
