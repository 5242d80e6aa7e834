"""The columns that a cache can have, by name: latents, views of pixels, statistics."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from types import MappingProxyType

import numpy as np
import torch
from jaxtyping import Float, Float64, UInt8
from PIL import Image

from leakcache.errors import ConfigError
from leakcache.images.preprocess import (
    ENLARGED,
    MAX_SIDE,
    PARTS,
    QUALITY,
    REDUCED,
    SIDE,
    Preprocessing,
    fitted,
    preprocess,
)
from leakcache.statistics import activation_features, pixel_features
from leakcache.statistics.planes import dct_low
from leakcache.statistics.rows import dequantise, quantise, stored_length
from leakcache.store.column import CHAINS, Column, DecodedImage, View, ViewValues, on_track
from leakcache.store.manifest import Encoding
from leakcache.store.zarr_column import ColumnSpec

DCT_SIZE = 16
"""Side of the block of DCT coefficients; smaller blocks are corners of it."""

Latents = Float[np.ndarray, "image view channel height width"]
Coefficients = Float[np.ndarray, "image view channel size size"]


class Z0(Column):
    """Scaled posterior means of an image's views."""

    name = "z0"

    def spec(self, encoding: Encoding) -> ColumnSpec:
        """View, channel, height, width, in the type that the encoding stores."""
        settings = {**encoder_settings(encoding), "preprocessing": asdict(encoding.preprocessing)}
        return ColumnSpec(self.name, encoding.latent_shape, encoding.stored, settings)

    def views(self, image: DecodedImage) -> tuple[View, ...]:
        """The views of the encoding's preprocessing."""
        return tuple(View(pixels, latent=True) for pixels in image.latent_views)

    def values(self, views: Sequence[ViewValues]) -> np.ndarray:
        """One latent a view."""
        return np.stack([view.latent for view in views if view.latent is not None])


def encoder_settings(encoding: Encoding) -> dict[str, object]:
    """What all that an encoder gives depends on."""
    autoencoder = encoding.autoencoder
    return {
        "autoencoder": autoencoder.weights_sha256,
        "scaling": [autoencoder.scaling_factor, autoencoder.shift_factor],
        "precision": encoding.precision,
        "runtime": encoding.runtime,
    }


def dct_side(latent_shape: tuple[int, ...]) -> int:
    """Side of the block of coefficients for latents of this shape."""
    return min(DCT_SIZE, *latent_shape[-2:])


def coefficients_of(z0: Latents) -> Coefficients:
    """Low DCT coefficients of latents, in their type."""
    found = dct_low(torch.from_numpy(z0).float(), dct_side(z0.shape[1:]))
    coefficients: Coefficients = found.numpy().astype(z0.dtype)
    return coefficients


class Cut(Column):
    """Canonical uint8 views of one size, stored as pixels for methods that read them.

    `RESIZED` and `CROPS` stand in the table; others are stored when a method first asks for them.
    """

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


SIZES = {"native": MAX_SIDE, "reduced": REDUCED}
COPIES = {"chains": [list(chain) for chain in CHAINS], "last": [SIDE, QUALITY]}
"""What degraded copies depend on, beside the image."""
COPY_COUNT = len(CHAINS) + 1


class Statistics(Column):
    """Families of values, stored in 8 bits.

    Attributes:
        lengths: values of each family.
        rows: shape of an image's rows of values: views or parts, or copies and views.
        version: to be raised when the code gives other values.
    """

    lengths: Mapping[str, int]
    rows: tuple[int, ...]
    version: int

    @abstractmethod
    def settings(self, encoding: Encoding) -> dict[str, object]:
        """What the values depend on, but for the families."""

    def spec(self, encoding: Encoding) -> ColumnSpec:
        """Rows, then the stored bytes of one."""
        depends = {"families": dict(self.lengths), **SIZES, **self.settings(encoding)}
        shape = (*self.rows, stored_length(self.lengths))
        spec = ColumnSpec(self.name, shape, "uint8", depends, self.version)
        return on_track(spec, encoding.canonical_size)

    def stored(self, values: np.ndarray, spec: ColumnSpec) -> np.ndarray:
        """Codes and scales; see `leakcache.statistics.rows`."""
        return quantise(values, self.lengths)

    def read(self, stored: np.ndarray) -> np.ndarray:
        """Values in half precision."""
        return dequantise(stored, self.lengths)


class PixelStatistics(Statistics):
    """Of the native view, of its quarters, then of the reduced view."""

    name = "pixel_statistics"
    lengths = pixel_features.LENGTHS
    rows: tuple[int, ...] = (PARTS + 1,)
    version = 7

    def settings(self, encoding: Encoding) -> dict[str, object]:
        """None: pixels go through no encoder."""
        return {}

    def views(self, image: DecodedImage) -> tuple[View, ...]:
        """As the values are ordered."""
        return View(image.native, statistic_parts=PARTS), View(image.reduced, statistic_parts=1)

    def values(self, views: Sequence[ViewValues]) -> np.ndarray:
        """One row a part."""
        found = [view.statistics for view in views if view.statistics is not None]
        # The reduced view may be the native one, which has more parts.
        return np.concatenate([found[0], *(rows[:1] for rows in found[1:])])


class ActivationStatistics(Statistics):
    """Of the native view and its quarters, then of the enlarged reduced view and its quarters.

    Quarters take no forward pass of their own: they are corners of the whole's activations.
    """

    name = "activation_statistics"
    lengths = activation_features.LENGTHS
    rows: tuple[int, ...] = (2 * PARTS,)
    version = 3

    def settings(self, encoding: Encoding) -> dict[str, object]:
        """Of the encoder and of the enlarged view; the scaling is of latents alone."""
        encoder = encoder_settings(encoding)
        del encoder["scaling"]
        return {**encoder, "enlarged": ENLARGED}

    def views(self, image: DecodedImage) -> tuple[View, ...]:
        """Two, with all their parts."""
        return tuple(View(v, activation_parts=PARTS) for v in (image.native, image.enlarged))

    def values(self, views: Sequence[ViewValues]) -> np.ndarray:
        """One row a part."""
        return np.concatenate([view.activations for view in views if view.activations is not None])


class DegradedPixelStatistics(PixelStatistics):
    """Of degraded copies of a training image: of each its native, then its reduced view."""

    name = "degraded_pixel_statistics"
    training_only = True
    rows = (COPY_COUNT, 2)

    def settings(self, encoding: Encoding) -> dict[str, object]:
        """Of the copies."""
        return {**super().settings(encoding), **COPIES}

    def views(self, image: DecodedImage) -> tuple[View, ...]:
        """Two a copy."""
        pixels = [view for copy in image.copies for view in (copy.native, copy.reduced)]
        return tuple(View(view, statistic_parts=1) for view in pixels)

    def values(self, views: Sequence[ViewValues]) -> np.ndarray:
        """Two rows a copy."""
        wholes = [view.statistics[0] for view in views if view.statistics is not None]
        return np.stack(wholes).reshape(*self.rows, -1)


class DegradedActivationStatistics(ActivationStatistics):
    """Of degraded copies of a training image: of each its native, then its enlarged view."""

    name = "degraded_activation_statistics"
    training_only = True
    rows = (COPY_COUNT, 2)

    def settings(self, encoding: Encoding) -> dict[str, object]:
        """Also of the copies."""
        return {**super().settings(encoding), **COPIES}

    def views(self, image: DecodedImage) -> tuple[View, ...]:
        """Two a copy, as wholes."""
        pixels = [view for copy in image.copies for view in (copy.native, copy.enlarged)]
        return tuple(View(view, activation_parts=1) for view in pixels)

    def values(self, views: Sequence[ViewValues]) -> np.ndarray:
        """Two rows a copy."""
        wholes = [view.activations[0] for view in views if view.activations is not None]
        return np.stack(wholes).reshape(*self.rows, -1)


COLUMNS: Mapping[str, Column] = MappingProxyType(
    {
        column.name: column
        for column in (
            Z0(),
            PixelStatistics(),
            ActivationStatistics(),
            DegradedPixelStatistics(),
            DegradedActivationStatistics(),
            RESIZED,
            CROPS,
        )
    }
)
"""By name; the low DCT coefficients and moments follow from z0 and are not stored."""


def columns_named(names: Iterable[str]) -> tuple[Column, ...]:
    """Columns in the order of the table, each once.

    Raises:
        ConfigError: there is no column of that name.
    """
    wanted = set(names)
    for name in sorted(wanted - set(COLUMNS)):
        raise ConfigError(f"no column is called {name!r}: take some of {', '.join(COLUMNS)}")
    return tuple(column for name, column in COLUMNS.items() if name in wanted)
