"""What a column is: its spec, the views of an image that it reads, and its values of these."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from jaxtyping import Float, Float32, UInt8
from PIL import Image

from leakcache.images.decode import Preprocessing, preprocess
from leakcache.images.degrade import degrade
from leakcache.images.preprocess import (
    MAX_SIDE,
    canonicalise,
    enlarged_view,
    native_view,
    reduced_view,
)
from leakcache.store.manifest import Encoding
from leakcache.store.zarr_column import ColumnSpec

CHAINS = ((2, 102),)
"""Operations and seed of each degraded copy but the last, which is canonical."""
MAX_DEGRADED_SIDE = 2 * MAX_SIDE
"""Longest side of the part of an image that is degraded: bounds its cost."""

Pixels = UInt8[np.ndarray, "height width 3"]


@dataclass(frozen=True)
class View:
    """Pixels that a column reads, and what it reads of them besides.

    Attributes:
        pixels: of the view.
        latent: whether z0 is read.
        activation_parts: of how many parts statistics of activations are read; 0 for none.
        statistic_parts: the same for statistics of pixels.
    """

    pixels: Pixels
    latent: bool = False
    activation_parts: int = 0
    statistic_parts: int = 0


@dataclass(frozen=True)
class ViewValues:
    """What was computed of one view; None where it was not asked for."""

    pixels: Pixels
    latent: Float32[np.ndarray, "channel rows columns"] | None = None
    activations: Float[np.ndarray, "part entry"] | None = None
    statistics: Float[np.ndarray, "portion value"] | None = None


@dataclass(frozen=True)
class DecodedImage:
    """An RGB image and its views, each cut once.

    Attributes:
        image: on the canonical track its canonical form.
        sha256: of its file, in hexadecimal; decides how copies are degraded.
        preprocessing: of the views that latents are encoded from.
    """

    image: Image.Image
    sha256: str
    preprocessing: Preprocessing

    @classmethod
    def of(cls, image: Image.Image, sha256: str, preprocessing: Preprocessing) -> DecodedImage:
        """The image on its track."""
        if preprocessing.canonical:
            image = canonicalise(image, preprocessing.canonical_size)
            plain = Preprocessing(preprocessing.name, preprocessing.size, preprocessing.views)
            return cls(image, sha256, plain)
        return cls(image, sha256, preprocessing)

    @cached_property
    def latent_views(self) -> UInt8[np.ndarray, "view size size 3"]:
        """What latents are encoded from."""
        return preprocess(self.image, self.preprocessing)

    @cached_property
    def native(self) -> Pixels:
        """The centre at native resolution."""
        return native_view(self.image)

    @cached_property
    def reduced(self) -> Pixels:
        """The native view at the one size of all images."""
        return reduced_view(self.native)

    @cached_property
    def enlarged(self) -> Pixels:
        """The reduced view, enlarged for the encoder."""
        return enlarged_view(self.reduced)

    @cached_property
    def copies(self) -> tuple[DecodedImage, ...]:
        """Degraded copies: WILD-like ones, then the canonical form.

        Their operations depend on the image's hash and on seeds that no evaluation uses.
        """
        part = Image.fromarray(native_view(self.image, MAX_DEGRADED_SIDE))
        copies = [degrade(part, step, seed, self.sha256)[0] for step, seed in CHAINS]
        return tuple(
            DecodedImage(copy, self.sha256, self.preprocessing)
            for copy in (*copies, canonicalise(self.image))
        )


class Column(ABC):
    """One column of a cache.

    Attributes:
        name: in the table of columns.
        training_only: whether images of the training fold alone have it.
    """

    name: str
    training_only = False

    @abstractmethod
    def spec(self, encoding: Encoding) -> ColumnSpec:
        """Shape, type and settings of its values in a cache of this encoding."""

    @abstractmethod
    def views(self, image: DecodedImage) -> tuple[View, ...]:
        """What it reads of an image."""

    @abstractmethod
    def values(self, views: Sequence[ViewValues]) -> np.ndarray:
        """The values of an image, from those of its views, in their order."""

    def stored(self, values: np.ndarray, spec: ColumnSpec) -> np.ndarray:
        """What is stored of an image's values, of the spec's shape and type."""
        with np.errstate(over="ignore"):
            return values.astype(spec.dtype)

    def read(self, stored: np.ndarray) -> np.ndarray:
        """Values of images from what is stored of them."""
        return stored


def on_track(spec: ColumnSpec, canonical_size: int | None) -> ColumnSpec:
    """The spec with the settings of the canonical track; itself where that is not taken."""
    if canonical_size is None:
        return spec
    return spec.with_settings(canonical=canonical_size)
