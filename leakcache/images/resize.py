"""A square window of a resized image, without resizing what lies outside of it."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from jaxtyping import UInt8
from PIL import Image

_BAND = 2**22
"""Pixels that are copied at a time."""


def fitted(width: int, height: int, size: int) -> tuple[int, int]:
    """Width and height after the shorter side is brought to `size`.

    The longer side is rounded down, as in torchvision's Resize.
    """
    short = min(width, height)
    return (size * width // short, size * height // short)


def central(scaled: tuple[int, int], size: int) -> tuple[int, int]:
    """(left, top) of the centre crop; halves are rounded to even, as in its CenterCrop."""
    return (round((scaled[0] - size) / 2), round((scaled[1] - size) / 2))


def centre_square(image: Image.Image, size: int) -> UInt8[np.ndarray, "size size 3"]:
    """Shorter side of an RGB image to `size`, antialiased bilinear, then the centre crop."""
    scaled = fitted(*image.size, size)
    return window(image, scaled, central(scaled, size), size)


def window(
    image: Image.Image, scaled: tuple[int, int], corner: tuple[int, int], size: int
) -> UInt8[np.ndarray, "size size 3"]:
    """The square at `corner` of the RGB image resized to `scaled`."""
    return rectangle(image, scaled, corner, (size, size))


def rectangle(
    image: Image.Image, scaled: tuple[int, int], corner: tuple[int, int], shape: tuple[int, int]
) -> UInt8[np.ndarray, "height width 3"]:
    """The part at `corner`, of `shape` (width, height), of the RGB image resized to `scaled`.

    Rows are resampled before columns in a call of their own: Pillow picks the order by the
    shape of what it is given, and the order shows in the rounding.
    """
    (left, top), (width, height) = corner, shape
    if scaled == image.size:
        return np.asarray(image.crop((left, top, left + width, top + height)))
    across = _span(left, width, image.width, scaled[0])
    down = _span(top, height, image.height, scaled[1])
    part = _resampled_rows(image, across, down, width)
    columns = (0, down.start, width, down.stop)
    return np.asarray(part.resize((width, height), Image.Resampling.BILINEAR, box=columns))


def _resampled_rows(image: Image.Image, across: _Span, down: _Span, width: int) -> Image.Image:
    """The rows that `down` needs, each resampled to `width`; of the image only a band is copied."""
    found = Image.new(image.mode, (width, down.last - down.first))
    rows = max(1, _BAND // max(1, across.last - across.first))
    for top in range(down.first, down.last, rows):
        band = image.crop((across.first, top, across.last, min(top + rows, down.last)))
        box = (across.start, 0, across.stop, band.height)
        resampled = band.resize((width, band.height), Image.Resampling.BILINEAR, box=box)
        found.paste(resampled, (0, top - down.first))
    return found


class _Span(NamedTuple):
    """Source pixels `first` to `last` of one axis, and the window in them, from `first` on."""

    first: int
    last: int
    start: float
    stop: float


def _span(place: int, size: int, length: int, scaled: int) -> _Span:
    step = length / scaled
    # Rounding may carry the far edge a hair beyond the image, which Pillow refuses.
    start, stop = place * step, min((place + size) * step, length)
    reach = max(step, 1.0)  # of the triangle filter, in source pixels
    first, last = max(math.floor(start - reach), 0), min(math.ceil(stop + reach), length)
    return _Span(first, last, start - first, stop - first)
