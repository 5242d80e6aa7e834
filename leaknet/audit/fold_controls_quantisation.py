"""How coarsely a JPEG was quantised: its tables as a fingerprint, and the quality they mean."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Mapping, Sequence
from functools import cache

import numpy as np
from jaxtyping import Int
from PIL import Image
from PIL.JpegImagePlugin import JpegImageFile

Tables = Mapping[int, Sequence[int]]


def fingerprint(tables: Tables) -> str:
    """A short hash of all quantisation tables."""
    words = repr([(key, list(tables[key])) for key in sorted(tables)])
    return hashlib.sha256(words.encode()).hexdigest()[:12]


def quality(tables: Tables) -> int:
    """The libjpeg quality, 1 to 100, whose luminance table is nearest; exact for its own files."""
    distance = np.abs(_luminance() - np.asarray(tables[min(tables)])).sum(axis=1)
    return int(distance.argmin()) + 1


@cache
def _luminance() -> Int[np.ndarray, "quality coefficient"]:
    """The luminance tables of quality 1 to 100, read from files that libjpeg writes."""
    return np.array([_table(q) for q in range(1, 101)])


def _table(quality: int) -> Sequence[int]:
    buffer = io.BytesIO()
    Image.new("L", (8, 8)).save(buffer, "JPEG", quality=quality)
    with JpegImageFile(io.BytesIO(buffer.getvalue())) as image:
        return list(image.quantization[0])
