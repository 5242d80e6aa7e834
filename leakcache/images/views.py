"""The views of an image that statistics are taken of."""

from __future__ import annotations

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from leakcache.images.preprocess import GRID
from leakcache.images.resize import centre_square, fitted, rectangle
from leakcache.statistics.part_grid import LEAST

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
