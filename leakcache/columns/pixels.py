"""The columns of pixels: canonical uint8 views that compared methods read.

`RESIZED` and `CROPS` stand in the table of columns; any other cut is stored when a method first
asks for it.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import asdict, dataclass

import numpy as np
from jaxtyping import Float64, UInt8
from PIL import Image

from leakcache.columns.column import Column, DecodedImage, View, ViewValues, on_track
from leakcache.columns.spec import ColumnSpec
from leakcache.images.preprocess import Preprocessing, fitted, preprocess
from leakcache.store.manifest import Encoding


class Cut(Column):
    """Views of one size that are stored as pixels."""

    @property
    @abstractmethod
    def plain_spec(self) -> ColumnSpec:
        """Name, shape (view, side, side, 3) and settings, the canonical track left aside."""

    @abstractmethod
    def __call__(self, image: Image.Image) -> UInt8[np.ndarray, "view side side 3"]:
        """The views of an RGB image."""

    def spec(self, encoding: Encoding) -> ColumnSpec:
        """View, side, side, 3."""
        return on_track(self.plain_spec, encoding.canonical_size)

    def views(self, image: DecodedImage) -> tuple[View, ...]:
        """The cut itself."""
        return tuple(View(pixels) for pixels in self(image.image))

    def values(self, views: Sequence[ViewValues]) -> np.ndarray:
        """Its pixels."""
        return np.stack([view.pixels for view in views])


@dataclass(frozen=True)
class Views(Cut):
    """The views that a preprocessing gives, as they are."""

    preprocessing: Preprocessing

    @property
    def name(self) -> str:  # type: ignore[override]
        """After the preprocessing."""
        cut = self.preprocessing
        return f"pixels_{cut.name}{cut.size}" + (f"x{cut.views}" if cut.views > 1 else "")

    @property
    def plain_spec(self) -> ColumnSpec:
        """Of this preprocessing; the canonical track is left aside."""
        cut = self.preprocessing
        settings = {key: asdict(cut)[key] for key in ("name", "size", "views")}
        return ColumnSpec(self.name, (cut.views, cut.size, cut.size, 3), "uint8", settings)

    def __call__(self, image: Image.Image) -> UInt8[np.ndarray, "view side side 3"]:
        """The views of an RGB image."""
        return preprocess(image, self.preprocessing)


RESIZED = Views(Preprocessing("resize", 256))
CROPS = Views(Preprocessing("crop", 256, 2))


DISTANCE = 5
"""Between the pixels of a pair in a row, whose mean squared difference of greys is the contrast
(SuSy's choice: a grey-level co-occurrence matrix of 256 levels, whose contrast needs no matrix)."""


@dataclass(frozen=True)
class ContrastTiles(Cut):
    """The `count` tiles of `size` pixels with the highest contrast, highest first.

    Tiles lie on a regular grid, as few as cover the image, overlapping where its sides are no
    multiples of `size`; an image with fewer tiles repeats them in turn. Images smaller than a tile
    are enlarged first.
    """

    size: int = 224
    count: int = 5

    @property
    def name(self) -> str:  # type: ignore[override]
        """After size and number."""
        return f"pixels_contrast{self.size}x{self.count}"

    @property
    def plain_spec(self) -> ColumnSpec:
        """Of the tiles as pixels."""
        settings = {"size": self.size, "count": self.count, "distance": DISTANCE}
        return ColumnSpec(self.name, (self.count, self.size, self.size, 3), "uint8", settings)

    def __call__(self, image: Image.Image) -> UInt8[np.ndarray, "view side side 3"]:
        """The tiles of an RGB image."""
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
