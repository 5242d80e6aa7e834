"""Baselines on reconstruction errors: per autoencoder, on the central native crop."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from typing import Any, ClassVar

import numpy as np
import torch
from jaxtyping import Float, Int, Shaped, UInt8
from torch import Tensor

from leakcache.columns.table import CROPS
from leakcache.store.source_images import Rows
from leakcache.store.zarr_column import ColumnSpec
from leaknet.baselines.autoencoders import Autoencoder, available_autoencoders
from leaknet.baselines.base import BaselineImages, BaselineOptions
from leaknet.baselines.linear_probe import LinearProbe

NATIVE = 256
"""Side of the central native crop; resizing removes most of the trace."""
EPSILON = 1e-8
"""Added to errors before the logarithm, so that a perfect reconstruction stays finite."""
BATCH = 8

Measure = Callable[[Float[Tensor, "image 3 side side"], Autoencoder], Shaped[Tensor, "image *row"]]
"""From RGB in [-1, 1] on the autoencoder's device to one row per image."""


def stored_measurements(
    images: BaselineImages,
    autoencoder: Autoencoder,
    measure: Measure,
    spec: tuple[str, tuple[int, ...], str],
    *,
    side: int = NATIVE,
    **depends: Any,
) -> Rows:
    """Rows of one measurement with one autoencoder, stored by content hash.

    Args:
        images: to measure.
        autoencoder: of the measurement.
        measure: computes the rows of a batch.
        spec: name, shape and type of a row.
        side: of the central crop in pixels, a multiple of 8 up to `NATIVE`.
        depends: further settings of the measurement.
    """
    name, shape, dtype = spec
    settings = {"autoencoder": autoencoder.sha256, "side": side, **depends}
    device = next(autoencoder.network.parameters()).device
    corner = (NATIVE - side) // 2
    inner = slice(corner, corner + side)

    def rows(
        views: UInt8[np.ndarray, "k 256 256 3"], _: Int[np.ndarray, "k"]
    ) -> Shaped[np.ndarray, "k *row"]:
        pixels = torch.from_numpy(np.ascontiguousarray(views[:, inner, inner])).to(device)
        x = pixels.permute(0, 3, 1, 2).float() / 127.5 - 1
        return measure(x, autoencoder).cpu().numpy().astype(dtype)

    full = f"{name}-{autoencoder.name}-{autoencoder.sha256[:8]}"
    # The first of several crops is the central one.
    return images.extract(ColumnSpec(full, shape, dtype, settings), CROPS, rows, BATCH)


class ReconstructionErrors(LinearProbe):
    """log10 of reconstruction errors with every available autoencoder, read by a linear probe.

    Attributes:
        side: of the native crop in pixels.
        columns: errors per autoencoder.
    """

    side: ClassVar[int] = NATIVE
    columns: ClassVar[int] = 1

    def __init__(self, classes: tuple[str, ...], options: BaselineOptions) -> None:
        super().__init__(classes, options)
        self.autoencoders = available_autoencoders(options.weights, options.device)

    @abstractmethod
    def errors(
        self, pixels: Float[Tensor, "image 3 side side"], autoencoder: Autoencoder
    ) -> Float[Tensor, "image column"]:
        """Errors of images in [-1, 1], at least 0."""

    @property
    def store_name(self) -> str:
        """Name of the stored rows."""
        return self.name

    @property
    def depends(self) -> dict[str, Any]:
        """Settings of the errors, for the stored rows."""
        return {}

    @property
    def parameters(self) -> int:
        """Of the autoencoders and of the regression."""
        own = sum(one.parameters for one in self.autoencoders)
        return own + (self.columns * len(self.autoencoders) + 1) * len(self.classes)

    def measure(self, images: BaselineImages) -> Float[np.ndarray, "image dimension"]:
        """log10 of the errors, stored once computed."""
        spec = (self.store_name, (self.columns,), "float32")
        rows = [
            stored_measurements(images, one, self.errors, spec, side=self.side, **self.depends)
            for one in self.autoencoders
        ]
        errors = np.concatenate([row[:] for row in rows], axis=1).astype(np.float64)
        return np.log10(errors + EPSILON)
