"""Statistics of the pixels of every image of a cache, beside its latents.

DIR/rows/statistics/ is a store of `leakcache.store.array_store`: one row an image, found by
content hash, of the
families in `leakcache.statistics.pixel_features`. Latents and their fingerprint know nothing of it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import numpy as np
import torch
from jaxtyping import Float16, Float32, Int, UInt8
from PIL import Image

from leakcache.images.preprocess import GRID
from leakcache.images.resize import centre_square, fitted, rectangle
from leakcache.statistics.pixel_features import LENGTH, LENGTHS, pixel_statistics
from leakcache.statistics.planes import LEAST
from leakcache.store.array_store import RowSpec
from leakcache.store.cache import Cache
from leakcache.store.derived import PixelReport, all_stored, fill_rows, stored_rows
from leakcache.store.source_images import SourceImages

Result = TypeVar("Result")

MOST = 512
"""Longest side of the part of a picture that is read: bounds what it costs."""
REDUCED = 256
"""Of the view in which all pictures have one size, whatever was done to theirs."""
VERSION = 6
"""To be raised when a family gives other values."""

PARTS = 5
"""Views at native resolution: the whole of what is read, then its quarters."""
VIEWS = PARTS + 1
"""Of a picture: its parts, then the whole brought to `REDUCED` pixels."""

SPEC = RowSpec(
    "statistics",
    (VIEWS, LENGTH),
    "float16",
    {"families": dict(LENGTHS), "most": MOST, "reduced": REDUCED, "version": VERSION},
)


def middle(image: Image.Image, most: int = MOST) -> UInt8[np.ndarray, "height width 3"]:
    """The centre of an RGB picture at its native resolution, at most `most` pixels wide and high.

    It starts on a multiple of 8. A picture with a side below 64 is enlarged so that it has 64.
    """
    scaled = fitted(*image.size, LEAST) if min(image.size) < LEAST else image.size
    width, height = (min(side, most) for side in scaled)
    left, top = (
        (side - part) // 2 // GRID * GRID
        for side, part in zip(scaled, (width, height), strict=True)
    )
    return rectangle(image, scaled, (left, top), (width, height))


def reduced(image: Image.Image) -> UInt8[np.ndarray, "256 256 3"]:
    """The centre square of an RGB picture's `middle`, brought to `REDUCED` pixels.

    Resampling changes the scale on which a generator's traces lie; here it is the picture's own.
    A large picture is reduced no more than its middle alone would be, as a cut of it is its like.
    """
    return centre_square(Image.fromarray(middle(image)), REDUCED)


def at_both_sizes(
    function: Callable[[UInt8[np.ndarray, "height width 3"]], Result], image: Image.Image
) -> tuple[Result, Result]:
    """A function of an RGB picture's `middle`, and of it `reduced`; called once if both are one."""
    native, small = middle(image), reduced(image)
    found = function(native)
    return found, found if np.array_equal(native, small) else function(small)


def statistics_of(image: Image.Image) -> Float16[np.ndarray, "view value"]:
    """The row of an RGB picture."""
    native, small = (torch.from_numpy(view.copy()) for view in (middle(image), reduced(image)))
    found = [pixel_statistics(native[None], PARTS)[0], pixel_statistics(small[None])[0]]
    return torch.cat(found).half().numpy()


def statistics(view: UInt8[np.ndarray, "height width 3"]) -> Float32[np.ndarray, " value"]:
    """All families of one view."""
    return pixel_statistics(torch.from_numpy(view.copy())[None])[0, 0].numpy()


def build_statistics(cache: Cache, *, fresh: bool = False, repair: bool = False) -> PixelReport:
    """Compute and keep the rows of every image of a cache that are not there yet.

    To resume after a kill, call it again: finished shards stay as they are.

    Args:
        cache: whose images.
        fresh: throw away what is there.
        repair: read what is there through its checksums and compute again what is lost.

    Raises:
        CacheStale: an image file has changed since the cache was built.
        CacheError: another process is writing there, or the disk is full.
    """
    originals = SourceImages.of(cache, np.arange(len(cache)))

    def one(row: int) -> Float16[np.ndarray, "view value"]:
        return statistics_of(originals.picture(row))

    return fill_rows(originals, SPEC, one, fresh=fresh, repair=repair)


def has_statistics(cache: Cache) -> bool:
    """Whether the rows of all images of a cache are kept."""
    return all_stored(cache, SPEC)


def stored_statistics(
    cache: Cache, rows: Int[np.ndarray, "image"]
) -> Float16[np.ndarray, "image view value"] | None:
    """Rows of some images of a cache; None where not all of them are kept.

    Raises:
        CacheCorrupt: a row's bytes do not match their checksum.
    """
    return stored_rows(cache, rows, SPEC)
