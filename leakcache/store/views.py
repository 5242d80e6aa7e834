"""Canonical uint8 pixels of images, cut once and kept beside the latents.

A cut is what a method reads of a picture. `RESIZED` and `CROPS` are what
`leak cache build --with pixels` stores; any other is stored when a method first asks for it.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import asdict, dataclass

import numpy as np
from jaxtyping import Float64, UInt8
from PIL import Image

from leakcache.images.preprocess import Preprocessing, preprocess
from leakcache.images.resize import fitted
from leakcache.store.array_store import RowSpec


class Cut(ABC):
    """What is kept of a picture."""

    @property
    @abstractmethod
    def spec(self) -> RowSpec:
        """Name, shape (view, side, side, 3) and settings of the rows."""

    @abstractmethod
    def __call__(self, image: Image.Image) -> UInt8[np.ndarray, "view side side 3"]:
        """The views of an RGB picture."""


@dataclass(frozen=True)
class Views(Cut):
    """The views that latents are encoded from, as they are."""

    preprocessing: Preprocessing

    @property
    def spec(self) -> RowSpec:
        """Of this preprocessing; the canonical track is not its business."""
        cut = self.preprocessing
        views = f"x{cut.views}" if cut.views > 1 else ""
        settings = {key: asdict(cut)[key] for key in ("name", "size", "views")}
        return RowSpec(
            f"{cut.name}{cut.size}{views}", (cut.views, cut.size, cut.size, 3), "uint8", settings
        )

    def __call__(self, image: Image.Image) -> UInt8[np.ndarray, "view side side 3"]:
        """The views of an RGB picture."""
        return preprocess(image, self.preprocessing)


RESIZED = Views(Preprocessing("resize", 256))
CROPS = Views(Preprocessing("crop", 256, 2))


# The tiles of an image with the highest contrast of neighbouring greys (SuSy's choice).
#
# Contrast is that of a grey-level co-occurrence matrix: the mean squared difference of the greys
# of pixel pairs `DISTANCE` apart in a row. With 256 levels that mean needs no matrix.

DISTANCE = 5


@dataclass(frozen=True)
class ContrastTiles(Cut):
    """The `count` tiles of `size` pixels with the highest contrast, highest first.

    Tiles lie on a regular grid, as few as cover the picture, overlapping where its sides are no
    multiples of `size`; a picture with fewer tiles repeats them in turn. Pictures
    smaller than a tile are enlarged first.
    """

    size: int = 224
    count: int = 5

    @property
    def spec(self) -> RowSpec:
        """Of the tiles as pixels."""
        settings = {"size": self.size, "count": self.count, "distance": DISTANCE}
        name = f"contrast{self.size}x{self.count}"
        return RowSpec(name, (self.count, self.size, self.size, 3), "uint8", settings)

    def __call__(self, image: Image.Image) -> UInt8[np.ndarray, "view side side 3"]:
        """The tiles of an RGB picture."""
        if min(image.size) < self.size:
            image = image.resize(fitted(*image.size, self.size), Image.Resampling.BILINEAR)
        pixels, grey = np.asarray(image), np.asarray(image.convert("L"))
        corners = [
            (y, x)
            for y in _starts(image.height, self.size)
            for x in _starts(image.width, self.size)
        ]
        tiles = [(slice(y, y + self.size), slice(x, x + self.size)) for y, x in corners]
        contrasts = np.array([contrast(grey[tile]) for tile in tiles])
        # Stable, so that of equal tiles the first in reading order goes first.
        best = np.argsort(-contrasts, kind="stable")[: self.count].tolist()
        return np.stack([pixels[tiles[best[place % len(best)]]] for place in range(self.count)])


def contrast(grey: UInt8[np.ndarray, "height width"]) -> float:
    """Contrast of the symmetric, normed co-occurrence matrix at distance 5 along rows, angle 0."""
    left: Float64[np.ndarray, "height pair"] = grey[:, :-DISTANCE].astype(np.float64)
    return float(np.mean((left - grey[:, DISTANCE:]) ** 2))


def _starts(length: int, size: int) -> list[int]:
    """As few starts of tiles as cover a side, spread evenly from its first to its last."""
    count = -(-length // size)
    return [round(step * (length - size) / max(1, count - 1)) for step in range(count)]
