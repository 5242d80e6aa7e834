"""Pixels to views: resize, crop, canonical form, and the views that statistics are taken of."""

from __future__ import annotations

import io
import math
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from jaxtyping import Float32, UInt8
from PIL import Image

from leakcache.errors import ConfigError, ImageError
from leakcache.statistics.rows import LEAST

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


SIDE = 256
QUALITY = 75
SUBSAMPLING = "4:2:0"


def canonical_bytes(image: Image.Image, side: int = SIDE) -> bytes:
    """The canonical form of an RGB image, as the bytes of a JPEG file `side` pixels square.

    Native size, aspect, format, metadata, alpha and quantisation tables are gone for certain.
    Traces of an earlier resampling or compression are only weakened, the more so the smaller the
    side: an image that had the side already was not resampled while the others were, and an
    enlarged one stays smooth (docs/AUDIT.md). Quality 75 with halved chroma hides such traces
    better than 90 or full chroma.
    """
    square = Image.fromarray(centre_square(image, side))
    buffer = io.BytesIO()
    square.save(buffer, "JPEG", quality=QUALITY, subsampling=SUBSAMPLING)
    return buffer.getvalue()


def canonicalise(image: Image.Image, side: int = SIDE) -> Image.Image:
    """The canonical form of an RGB image as pixels: encoded, and decoded again."""
    with Image.open(io.BytesIO(canonical_bytes(image, side)), formats=("JPEG",)) as file:
        file.load()
        return file.convert("RGB")


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


MAX_SIDE = 512
"""Longest side of the part of an image that is read: bounds its cost."""
REDUCED = 256
"""Side of the view in which all images have one size."""
ENLARGED = 2
"""Factor by which the reduced view is enlarged for the encoder: the finest traces then also reach
its last reduction, where covariances are over four times as many positions (docs/LOG.md)."""
PARTS = 5
"""Parts of a view: the whole, then its four quarters."""


def native_view(
    image: Image.Image, max_side: int = MAX_SIDE
) -> UInt8[np.ndarray, "height width 3"]:
    """The centre of an RGB image at native resolution, at most `max_side` wide and high.

    It starts on a multiple of 8. An image with a side below 64 is enlarged so that it has 64.
    """
    scaled = fitted(*image.size, LEAST) if min(image.size) < LEAST else image.size
    width, height = (min(side, max_side) for side in scaled)
    left, top = (
        (side - part) // 2 // GRID * GRID
        for side, part in zip(scaled, (width, height), strict=True)
    )
    return rectangle(image, scaled, (left, top), (width, height))


def reduced_view(native: UInt8[np.ndarray, "height width 3"]) -> UInt8[np.ndarray, "256 256 3"]:
    """The centre square of a native view, resampled to `REDUCED` pixels.

    A large image is reduced no more than its native view, so that a crop of it gives the like.
    """
    return centre_square(Image.fromarray(native), REDUCED)


def enlarged_view(
    view: UInt8[np.ndarray, "height width 3"],
) -> UInt8[np.ndarray, "larger wider 3"]:
    """A view enlarged `ENLARGED` times, by Lanczos resampling."""
    image = Image.fromarray(view)
    size = (image.width * ENLARGED, image.height * ENLARGED)
    return np.asarray(image.resize(size, Image.Resampling.LANCZOS))
