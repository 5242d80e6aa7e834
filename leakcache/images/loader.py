"""From a path to pixels: read, hash, decode and cut, on threads, ahead of the encoder."""

from __future__ import annotations

import hashlib
import os
from collections import deque
from collections.abc import Callable, Container, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np
from jaxtyping import UInt8

from leakcache.errors import ImageError
from leakcache.images.decode import Preprocessing, decode, preprocess
from leakcache.images.preprocess import refuse_tiny

Item = TypeVar("Item")
Result = TypeVar("Result")

THREADS = min(16, os.cpu_count() or 2)
AHEAD = 32
"""Images in flight at most: bounds the memory of a build whatever the number of images."""
AHEAD_BYTES = 2**28
"""Bytes of views in flight at most: bounds it for large and many views."""


@dataclass(frozen=True)
class LoadedImage:
    """One file, as far as it could be read.

    Attributes:
        sha256: hash of the file's bytes; empty where they could not be read.
        size: length of the file in bytes.
        pixels: the views, or None where they are not needed or not to be had.
        reason: why the image is refused; empty where it is not.
    """

    sha256: str
    size: int
    pixels: UInt8[np.ndarray, "view height width 3"] | None
    reason: str


def load_image(path: Path, preprocessing: Preprocessing, known: Container[str]) -> LoadedImage:
    """Read one image; its pixels are not decoded where its hash is among the `known`."""
    try:
        data = path.read_bytes()
    except OSError as error:
        return LoadedImage("", 0, None, f"cannot be read ({error.strerror or error})")
    sha256 = hashlib.sha256(data).hexdigest()
    if sha256 in known:
        return LoadedImage(sha256, len(data), None, "")
    try:
        image = decode(data)
        refuse_tiny(image.size, preprocessing)
        pixels = preprocess(image, preprocessing)
    except ImageError as error:
        return LoadedImage(sha256, len(data), None, str(error))
    return LoadedImage(sha256, len(data), pixels, "")


def images_ahead(preprocessing: Preprocessing) -> int:
    """How many images to load ahead of the encoder."""
    views = preprocessing.views * preprocessing.size**2 * 3
    return max(2, min(AHEAD, AHEAD_BYTES // views))


def hash_file(path: Path) -> str:
    """sha256 of a file's bytes; empty where it cannot be read."""
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError:
        return ""


def in_order(
    function: Callable[[Item], Result], items: Iterable[Item], ahead: int = AHEAD
) -> Generator[Result]:
    """Map over items on threads, in order, never more than `ahead` results in memory."""
    pending: deque[Future[Result]] = deque()
    with ThreadPoolExecutor(THREADS) as executor:
        try:
            for item in items:
                pending.append(executor.submit(function, item))
                if len(pending) >= ahead:
                    yield pending.popleft().result()
            while pending:
                yield pending.popleft().result()
        finally:
            for future in pending:
                future.cancel()
