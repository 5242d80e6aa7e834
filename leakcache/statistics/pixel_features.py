"""Statistics of the pixels of a view at native resolution.

An autoencoder's latent hardly keeps the highest frequencies, where generators differ most. Each
family is one pure function from the planes of a batch of views to vectors of fixed length, the
same scale for any size: means over blocks, patches or tiles. No family is learnt; values are
finite for blank views too.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType

import torch
from jaxtyping import Float32, UInt8
from torch import Tensor

from leakcache.device import torch_threads
from leakcache.statistics import patch_covariance, pixel_families
from leakcache.statistics.planes import Planes
from leakcache.statistics.rows import LEAST

Family = Callable[[Planes], Float32[Tensor, "batch part length"]]

FAMILIES: Mapping[str, tuple[Family, int]] = MappingProxyType(
    {
        "dct_histogram": (pixel_families.dct_histogram, pixel_families.DCT_HISTOGRAM_LENGTH),
        "dct_correlation": (pixel_families.dct_correlation, pixel_families.DCT_CORRELATION_LENGTH),
        "residual_spectrum": (
            pixel_families.residual_spectrum,
            pixel_families.RESIDUAL_SPECTRUM_LENGTH,
        ),
        "cooccurrence": (pixel_families.cooccurrence, pixel_families.COOCCURRENCE_LENGTH),
        "colour_covariance": (
            patch_covariance.colour_covariance,
            patch_covariance.COLOUR_COVARIANCE_LENGTH,
        ),
        "luma_covariance": (
            patch_covariance.luma_covariance,
            patch_covariance.LUMA_COVARIANCE_LENGTH,
        ),
        "normalised_luma": (
            patch_covariance.normalised_luma,
            patch_covariance.NORMALISED_LUMA_LENGTH,
        ),
        "normalised_residual": (
            patch_covariance.normalised_residual,
            patch_covariance.LUMA_COVARIANCE_LENGTH,
        ),
        "odd_luma": (patch_covariance.odd_luma, patch_covariance.LUMA_COVARIANCE_LENGTH),
    }
)
"""Function and length of each family, in the order in which values lie one after another."""

LENGTHS: Mapping[str, int] = MappingProxyType(
    {name: length for name, (_, length) in FAMILIES.items()}
)
"""Values of each family."""
LENGTH = sum(LENGTHS.values())


def family_slice(name: str) -> slice:
    """Where the values of a family lie."""
    names = list(LENGTHS)
    start = sum(LENGTHS[one] for one in names[: names.index(name)])
    return slice(start, start + LENGTHS[name])


@torch.inference_mode()
def pixel_statistics(
    views: UInt8[Tensor, "batch height width 3"], parts: int = 1
) -> Float32[Tensor, "batch {parts} value"]:
    """All families of views of one size, one after another, on the views' device.

    On a CPU it takes one thread: call it on several threads for several batches.

    Args:
        views: RGB.
        parts: 1 for the whole; 5 for the whole and its four corner quarters, whose sides are
            half as long, rounded down to a multiple of 8, and at least `LEAST`.

    Raises:
        ValueError: a side of the views is shorter than `LEAST`.
    """
    if min(views.shape[1:3]) < LEAST:
        height, width = views.shape[1:3]
        raise ValueError(f"a view of {width}×{height} is too small: give {LEAST}")
    with torch_threads(1):
        planes = Planes(views, parts)
        return torch.cat([family(planes) for family, _ in FAMILIES.values()], dim=2)
