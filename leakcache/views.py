"""Pixels to views: resize or crop an image to what the autoencoder reads, in -1..1."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from jaxtyping import Float32, UInt8
from PIL import Image

from leakcache.errors import ConfigError

GRID = 8
"""Crops start on multiples of this many pixels, the JPEG block and the latent stride."""


@dataclass(frozen=True)
class Preprocessing:
    """How an image becomes views of `size` × `size` pixels; part of a cache's fingerprint.

    "resize": shorter side to `size` by antialiased bilinear reduction, then the centre crop.
    "crop": `views` crops of the native pixels, on multiples of `GRID` from the top left.
    Raises ConfigError for another name, a size that is not a multiple of 8 in 64..2048, views
    outside 1..8, or more than one view of a resized image.
    """

    name: str = "resize"
    size: int = 256
    views: int = 1

    def __post_init__(self) -> None:
        if self.name not in ("resize", "crop"):
            raise ConfigError(f"unknown preprocessing {self.name!r}: use resize or crop")
        if self.size % GRID or not 64 <= self.size <= 2048:
            raise ConfigError(f"size {self.size} is not a multiple of 8 from 64 to 2048")
        if not 1 <= self.views <= 8:
            raise ConfigError(f"{self.views} views: give 1 to 8")
        if self.name == "resize" and self.views != 1:
            raise ConfigError(f"resize gives one view, not {self.views}: use crop for several")


def preprocess(
    image: Image.Image, preprocessing: Preprocessing
) -> UInt8[np.ndarray, "view height width 3"]:
    """The views of an RGB image that `preprocessing` asks for, height = width = its size.

    Smaller images are enlarged first so that the shorter side has the size. An image with
    fewer places for crops than views repeats them in turn, so the shape is always the same.
    Only the pixels that a view needs are resampled: the cost does not depend on the aspect.
    """
    size = preprocessing.size
    width, height = image.size
    short = min(width, height)
    if preprocessing.name == "crop" and short >= size:
        scaled = (width, height)
    else:
        # As torchvision's Resize: the longer side is rounded down.
        scaled = (size * width // short, size * height // short)
    if preprocessing.name == "crop":
        corners = crop_corners(*scaled, size, preprocessing.views)
    else:
        # As torchvision's CenterCrop: halves are rounded to even.
        corners = ((round((scaled[0] - size) / 2), round((scaled[1] - size) / 2)),)
    return np.stack([_window(image, scaled, corner, size) for corner in corners])


def _window(
    image: Image.Image, scaled: tuple[int, int], corner: tuple[int, int], size: int
) -> UInt8[np.ndarray, "size size 3"]:
    """What lies at `corner` of the image resized to `scaled`, without resizing the rest.

    Rows are resampled before columns in a call of their own: Pillow picks the order by the
    shape of what it is given, and the order shows in the rounding.
    """
    left, top = corner
    if scaled == image.size:
        return np.asarray(image.crop((left, top, left + size, top + size)))
    across = _span(left, size, image.width, scaled[0])
    down = _span(top, size, image.height, scaled[1])
    part = image.crop((across.first, down.first, across.last, down.last))
    rows = (across.start, 0, across.stop, part.height)
    part = part.resize((size, part.height), Image.Resampling.BILINEAR, box=rows)
    columns = (0, down.start, size, down.stop)
    return np.asarray(part.resize((size, size), Image.Resampling.BILINEAR, box=columns))


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


@lru_cache(maxsize=1024)
def crop_corners(width: int, height: int, size: int, views: int) -> tuple[tuple[int, int], ...]:
    """(left, top) of each crop in an image at least `size` wide and high, multiples of `GRID`.

    The first is the most central; each further one is as far as can be from those before, so
    that fewer views are a prefix of more. They repeat once every place is taken.
    """
    places = [(x, y) for y in _offsets(height - size) for x in _offsets(width - size)]
    middle = (_central(width - size), _central(height - size))
    chosen = [middle]
    gaps = [math.dist(middle, place) for place in places]
    while len(chosen) < views and max(gaps) > 0:
        farthest = places[gaps.index(max(gaps))]
        chosen.append(farthest)
        gaps = [min(gap, math.dist(farthest, p)) for gap, p in zip(gaps, places, strict=True)]
    return tuple(chosen[view % len(chosen)] for view in range(views))


def _central(free: int) -> int:
    return min(round(free / 2 / GRID), free // GRID) * GRID


def _offsets(free: int) -> list[int]:
    """At most 17 offsets from 0 to `free`, spread evenly, ends and centre among them."""
    steps = free // GRID
    even = {round(steps * part / 16) * GRID for part in range(17)}
    return sorted(even | {_central(free)})


def to_unit_range(
    pixels: UInt8[np.ndarray, "view height width 3"],
) -> Float32[np.ndarray, "view 3 height width"]:
    """0..255 to -1..1, channels first."""
    return np.ascontiguousarray(pixels.transpose(0, 3, 1, 2), np.float32) / 127.5 - 1
