"""What a request may cost; uploaded files to images: ZIP files are unpacked in memory."""

from __future__ import annotations

import struct
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import PurePosixPath
from typing import BinaryIO

from leakcache.dataset.records import IMAGE_SUFFIXES
from leakcache.errors import DataError, ImageError
from leakcache.images.decode import opened

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
