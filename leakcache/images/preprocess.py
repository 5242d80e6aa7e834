"""Pixels to views: resize or crop an image to what the autoencoder reads, in -1..1.

On the canonical track (`leakcache.images.canonical`) the image is brought to its canonical form
first.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from jaxtyping import Float32, UInt8
from PIL import Image

from leakcache.errors import ConfigError, ImageError
from leakcache.images.canonical import SIDE, canonicalise
from leakcache.images.resize import central, fitted, window

GRID = 8
"""Crops start on multiples of this many pixels, the JPEG block and the latent stride."""


@dataclass(frozen=True)
class Preprocessing:
    """How an image becomes views of `size` × `size` pixels; part of a cache's fingerprint.

    "resize": shorter side to `size` by antialiased bilinear reduction, then the centre crop.
    "crop": `views` crops of the native pixels, on multiples of `GRID` from the top left.
    `canonical`: views are cut from the canonical form of the image, `canonical_size` square.
    Raises ConfigError for another name, a size or canonical size that is not a multiple of 8
    in 64..2048, views outside 1..8, more than one view of a resized image or of a canonical
    image that has room for one only, and a canonical size where nothing is canonical.
    """

    name: str = "resize"
    size: int = 256
    views: int = 1
    canonical: bool = False
    canonical_size: int = SIDE

    def __post_init__(self) -> None:
        if self.name not in ("resize", "crop"):
            raise ConfigError(f"unknown preprocessing {self.name!r}: use resize or crop")
        for what, size in (("size", self.size), ("canonical size", self.canonical_size)):
            if size % GRID or not 64 <= size <= 2048:
                raise ConfigError(f"{what} {size} is not a multiple of 8 from 64 to 2048")
        if not 1 <= self.views <= 8:
            raise ConfigError(f"{self.views} views: give 1 to 8")
        if self.name == "resize" and self.views != 1:
            raise ConfigError(f"resize gives one view, not {self.views}: use crop for several")
        if not self.canonical and self.canonical_size != SIDE:
            raise ConfigError("a canonical size is for the canonical track: add --canonical")
        if self.canonical and self.views > 1 and self.canonical_size <= self.size:
            raise ConfigError(
                f"{self.views} crops of {self.size} from a canonical image of "
                f"{self.canonical_size} are one and the same: raise --canonical-size"
            )


def refuse_tiny(size: tuple[int, int], preprocessing: Preprocessing) -> None:
    """Refuse an image with fewer pixels than the latent has places: the rest is interpolation.

    Raises ImageError. One rule for images that are trained on and images that are scored.
    """
    least = preprocessing.size // GRID
    if min(size) < least:
        raise ImageError(f"{size[0]}x{size[1]} is too small: the shorter side needs {least} pixels")


def texture(image: Image.Image) -> float:
    """Mean difference of neighbouring grey values of an image, in 8-bit levels, 0..255.

    Of at most 2,048 × 2,048 pixels in the middle, so that memory does not grow with the image.
    """
    left, top = (max(0, (side - 2048) // 2) for side in image.size)
    box = (left, top, min(image.width, left + 2048), min(image.height, top + 2048))
    grey = np.asarray(image.crop(box).convert("L"), np.int16)
    steps = [np.abs(np.diff(grey, axis=axis)) for axis in (0, 1)]
    return float(np.mean([step.mean() if step.size else 0.0 for step in steps]))


def preprocess(
    image: Image.Image, preprocessing: Preprocessing
) -> UInt8[np.ndarray, "view height width 3"]:
    """The views of an RGB image that `preprocessing` asks for, height = width = its size.

    Smaller images are enlarged first so that the shorter side has the size. An image with
    fewer places for crops than views repeats them in turn, so the shape is always the same.
    Only the pixels that a view needs are resampled: the cost does not depend on the aspect.
    """
    size = preprocessing.size
    if preprocessing.canonical:
        image = canonicalise(image, preprocessing.canonical_size)
    if preprocessing.name == "crop" and min(image.size) >= size:
        scaled = image.size
    else:
        scaled = fitted(*image.size, size)
    if preprocessing.name == "crop":
        corners = crop_corners(*scaled, size, preprocessing.views)
    else:
        corners = (central(scaled, size),)
    return np.stack([window(image, scaled, corner, size) for corner in corners])


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
