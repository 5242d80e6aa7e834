"""Requests: what one may cost, the images in it, and the queue in which it waits to be scored."""

from __future__ import annotations

import asyncio
import struct
import threading
import time
import zipfile
import zlib
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from io import BytesIO
from pathlib import PurePosixPath
from typing import Any, BinaryIO, TypeVar, cast

from fastapi import HTTPException, Request
from starlette.datastructures import UploadFile
from starlette.types import Message, Receive

from leakcache.dataset.records import IMAGE_SUFFIXES
from leakcache.errors import DataError, ImageError
from leakcache.files import json_text
from leakcache.images.decode import opened
from leakcache.progress import silent
from leaknet.scoring.answers import Answer, Answers
from leaknet.scoring.predict import Predictor

MEBIBYTE = 2**20


@dataclass(frozen=True)
class Limits:
    """Limits of the server.

    Attributes:
        request_bytes: of one request.
        image_bytes: of one image, also inside a ZIP file.
        unpacked_bytes: of all images of one request, ZIP files unpacked.
        pixels: of one image.
        images: of one request.
        waiting: requests that wait for the one that is scored; more are answered with 429.
        seconds: to receive a request, and to score its images.
    """

    request_bytes: int = 128 * MEBIBYTE
    image_bytes: int = 64 * MEBIBYTE
    unpacked_bytes: int = 512 * MEBIBYTE
    pixels: int = 50_000_000
    images: int = 64
    waiting: int = 16
    seconds: float = 120.0


END_OF_DIRECTORY = b"PK\5\6"
ZIP64_LOCATOR = b"PK\6\7"
DIRECTORY_LIMIT = 2**20
"""Most bytes of the directory of a ZIP file: some ten thousand entries."""


@dataclass(frozen=True)
class Upload:
    """One uploaded image; `reason` says why it is not scored, and `data` is empty then."""

    name: str
    data: bytes = b""
    reason: str = ""


def read_uploads(files: Sequence[tuple[str, BinaryIO]], limits: Limits) -> list[Upload]:
    """The images of a request, in order.

    Args:
        files: name and content of each uploaded file. Names are shown only.
        limits: of the server.

    Raises:
        DataError: no images, too many, or too large together.
    """
    found: list[Upload] = []
    total = 0
    for name, file in files:
        for upload in _images(name, file, limits):
            found.append(upload)
            total += len(upload.data)
            if len(found) > limits.images:
                raise DataError(f"more than {limits.images} images: send fewer at a time")
            if total > limits.unpacked_bytes:
                raise DataError(f"more than {limits.unpacked_bytes:,} bytes of images: send fewer")
    if not found:
        raise DataError("no images: send image files, or ZIP files that hold some")
    return found


def _images(name: str, file: BinaryIO, limits: Limits) -> Iterator[Upload]:
    # ZIP files may be larger than one image: the whole request has a limit of its own.
    data = file.read(limits.request_bytes + 1)
    if data.startswith((b"PK\3\4", END_OF_DIRECTORY)):
        yield from _members(name, data, limits)
    else:
        yield _checked(name, data, limits)


def _members(name: str, data: bytes, limits: Limits) -> Iterator[Upload]:
    if reason := _directory_reason(data):
        yield Upload(name, reason=reason)
        return
    try:
        with zipfile.ZipFile(BytesIO(data)) as archive:
            for entry in archive.infolist():
                path = PurePosixPath(entry.filename)
                hidden = path.name.startswith(".") or "__MACOSX" in path.parts
                if not entry.is_dir() and not hidden and path.suffix.lower() in IMAGE_SUFFIXES:
                    yield _member(f"{name}/{entry.filename}", archive, entry, limits)
    except (zipfile.BadZipFile, NotImplementedError, ValueError, struct.error) as error:
        yield Upload(name, reason=f"cannot be unpacked: {error}")


def _member(name: str, archive: zipfile.ZipFile, entry: zipfile.ZipInfo, limits: Limits) -> Upload:
    try:
        with archive.open(entry) as member:
            return _checked(name, member.read(limits.image_bytes + 1), limits)
    # RuntimeError: it is encrypted. NotImplementedError: an unknown compression.
    except (zipfile.BadZipFile, zlib.error, RuntimeError, EOFError, OSError, ValueError) as error:
        return Upload(name, reason=f"cannot be unpacked: {error}")


def _directory_reason(data: bytes) -> str:
    """Why a ZIP file is refused before its directory is parsed; empty where it is not.

    The directory takes memory by the number of its entries, whatever these hold.
    """
    place = data.rfind(END_OF_DIRECTORY, max(0, len(data) - 22 - 2**16))
    if place < 0 or place + 22 > len(data):
        return "cannot be unpacked: it is cut off"
    (size,) = struct.unpack_from("<I", data, place + 12)
    if size > DIRECTORY_LIMIT or data[max(0, place - 20) : place].startswith(ZIP64_LOCATOR):
        return "the ZIP file has too many entries"
    return ""


def _checked(name: str, data: bytes, limits: Limits) -> Upload:
    if len(data) > limits.image_bytes:
        return Upload(name, reason=f"more than {limits.image_bytes:,} bytes")
    try:
        with opened(data) as image:
            width, height = image.size
    except ImageError as error:
        return Upload(name, reason=str(error))
    if width * height > limits.pixels:
        return Upload(name, reason=f"{width}x{height} is more than {limits.pixels:,} pixels")
    return Upload(name, data)


AT_ONCE = 8
"""Images that are scored before another request has its turn."""

Result = TypeVar("Result")


class Busy(Exception):
    """As many requests wait as may."""


class Jobs:
    """A bounded queue in front of one thread that scores.

    Attributes:
        counts: of answered requests by status, and of images by verdict.
        seconds: spent on answered requests.
    """

    def __init__(self, predictor: Predictor, limits: Limits) -> None:
        self.counts: Counter[tuple[str, str]] = Counter()
        self.seconds = 0.0
        self._predictor, self._limits = predictor, limits
        self._lock, self._inside = threading.Lock(), 0
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="score")

    @property
    def inside(self) -> int:
        """Requests that are received, wait or are scored."""
        return self._inside

    @contextmanager
    def slot(self) -> Iterator[None]:
        """Hold a place in the queue while the body runs; raises Busy where all are taken."""
        with self._lock:
            if self._inside > self._limits.waiting:
                raise Busy
            self._inside += 1
        try:
            yield
        finally:
            with self._lock:
                self._inside -= 1

    async def run(self, work: Callable[[], Result]) -> Result:
        """Run on the thread that scores, after what was submitted before."""
        return await asyncio.wrap_future(self._thread.submit(work))

    def parts(
        self, uploads: Sequence[Upload], alpha: float, *, stability: bool
    ) -> Iterator[Answers]:
        """Answers for images, in order; those after the time limit get a reason instead."""
        limit, spent = self._limits.seconds, 0.0
        late = f"not scored: the time limit of {limit:g} s was reached"
        for first in range(0, len(uploads), AT_ONCE):
            start = time.monotonic()
            part = uploads[first : first + AT_ONCE]
            if spent > limit:
                part = [replace(u, data=b"", reason=u.reason or late) for u in part]
            yield self._scored(part, alpha, stability=stability)
            spent += time.monotonic() - start

    def _scored(self, uploads: Sequence[Upload], alpha: float, *, stability: bool) -> Answers:
        usable = [upload for upload in uploads if not upload.reason]
        answers = self._predictor.score(
            [upload.data for upload in usable],
            alpha=alpha,
            stability=stability,
            names=[upload.name for upload in usable],
            progress=silent,
        )
        scored = iter(answers)
        images = [Answer(u.name, u.reason) if u.reason else next(scored) for u in uploads]
        with self._lock:
            self.counts.update(("images", one.verdict or "not_scored") for one in images)
        return replace(answers, images=tuple(images))

    def explain(self, upload: Upload, alpha: float, form: str) -> str:
        """The explanation of one image, as "html" or "json".

        Raises:
            ImageError: it cannot be used as an image.
        """
        from leaknet.explain import explain_image
        from leaknet.explain.page import keyed_figures, render

        run = self._predictor
        found = replace(explain_image(run, upload.data, alpha), path=upload.name)
        if form == "json":
            return json_text({"run": str(run.run), "images": [found.as_dict()]})
        return render([found], str(run.run), [keyed_figures(found)])

    def count(self, status: int, seconds: float) -> None:
        """Count an answered request."""
        with self._lock:
            self.counts["requests", str(status)] += 1
            self.seconds += seconds

    def metrics(self) -> str:
        """The counts in Prometheus' text format."""
        with self._lock:
            counts = sorted(self.counts.items())
        lines = []
        for family, label in (("requests", "status"), ("images", "verdict")):
            lines.append(f"# TYPE leak_{family}_total counter")
            lines += [
                f'leak_{family}_total{{{label}="{value}"}} {count}'
                for (name, value), count in counts
                if name == family
            ]
        lines += ["# TYPE leak_request_seconds_total counter"]
        lines += [f"leak_request_seconds_total {self.seconds:.6f}"]
        lines += ["# TYPE leak_requests_in_progress gauge"]
        lines += [f"leak_requests_in_progress {self._inside}"]
        return "\n".join(lines) + "\n"

    def close(self) -> None:
        """Let the request that is scored finish, and drop those that wait."""
        self._thread.shutdown(cancel_futures=True)


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
