"""Companions of the latents in pixel space: statistics of the pixels at native resolution.

An autoencoder's latent hardly keeps the highest frequencies, where generators differ most. Each
family here is one pure function from a uint8 view (height, width, 3) of at least 64 × 64 pixels to
a float32 vector of fixed length, the same scale for any size: means over blocks, patches or tiles.
No family is learnt; what is finite stays finite for blank views too.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType

import numpy as np
from jaxtyping import Float32, UInt8

from leakcache.statistics.block_dct import block_dct, dct_correlation, dct_histogram, wide_dct
from leakcache.statistics.patch_covariance import (
    colour_covariance,
    luma_covariance,
    normalised_luma,
    normalised_residual,
    odd_luma,
)
from leakcache.statistics.residuals import cooccurrence, residual_spectrum

Family = Callable[[UInt8[np.ndarray, "height width 3"]], Float32[np.ndarray, " length"]]

FAMILIES: Mapping[str, Family] = MappingProxyType(
    {
        "block_dct": block_dct,
        "wide_dct": wide_dct,
        "dct_histogram": dct_histogram,
        "dct_correlation": dct_correlation,
        "residual_spectrum": residual_spectrum,
        "cooccurrence": cooccurrence,
        "colour_covariance": colour_covariance,
        "luma_covariance": luma_covariance,
        "normalised_luma": normalised_luma,
        "normalised_residual": normalised_residual,
        "odd_luma": odd_luma,
    }
)
"""In the order in which `statistics` puts them one after another."""

LEAST = 64
"""Shortest side of a view, in pixels."""


def statistics(view: UInt8[np.ndarray, "height width 3"]) -> Float32[np.ndarray, " length"]:
    """All families of a view, one after another.

    Raises:
        ValueError: a side of the view is shorter than `LEAST`.
    """
    if min(view.shape[:2]) < LEAST:
        raise ValueError(f"a view of {view.shape[1]}×{view.shape[0]} is too small: give {LEAST}")
    return np.concatenate([family(view) for family in FAMILIES.values()])
