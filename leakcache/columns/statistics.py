"""The columns of statistics: of pixels, and of the encoder's activations."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence

import numpy as np

from leakcache.columns.column import (
    CHAINS,
    Column,
    DecodedImage,
    View,
    ViewValues,
    on_track,
)
from leakcache.columns.latents import encoder_settings
from leakcache.columns.quantise import dequantise, quantise, stored_length
from leakcache.columns.spec import ColumnSpec
from leakcache.images.preprocess import ENLARGED, MAX_SIDE, PARTS, QUALITY, REDUCED, SIDE
from leakcache.statistics import activation_features, pixel_features
from leakcache.store.manifest import Encoding

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
        """Codes and scales; see `leakcache.columns.quantise`."""
        return quantise(values, self.lengths)

    def read(self, stored: np.ndarray) -> np.ndarray:
        """Values in half precision."""
        return dequantise(stored, self.lengths)


class PixelStatistics(Statistics):
    """Of the native view, of its quarters, then of the reduced view."""

    name = "pixel_statistics"
    lengths = pixel_features.LENGTHS
    rows: tuple[int, ...] = (PARTS + 1,)
    version = 6

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
