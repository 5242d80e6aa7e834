"""The columns of clean latents: z0, and the low DCT coefficients that follow from it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict

import numpy as np
import torch
from jaxtyping import Float

from leakcache.columns.column import Column, DecodedImage, View, ViewValues
from leakcache.columns.spec import ColumnSpec
from leakcache.dct import dct_low
from leakcache.store.manifest import Encoding

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
