"""The orthonormal two-dimensional DCT-II, of which only the low frequencies are kept.

Orthonormal, so white noise stays white and energy is kept (Parseval): what is known of
the moments of clean coefficients carries over to noisy ones in closed form.
"""

from __future__ import annotations

from functools import lru_cache

import torch
from jaxtyping import Float
from torch import Tensor


@lru_cache(maxsize=32)
def _cosines(length: int) -> Float[Tensor, "frequency position"]:
    frequency = torch.arange(length, dtype=torch.float64)[:, None]
    position = torch.arange(length, dtype=torch.float64)[None, :]
    angle = torch.pi * (position + 0.5) * frequency / length
    basis: Tensor = torch.cos(angle) * (2 / length) ** 0.5
    basis[0] /= 2**0.5
    return basis


def dct_basis(length: int, like: Tensor) -> Float[Tensor, "frequency position"]:
    """The orthonormal DCT-II matrix for signals of `length`, in the type and place of `like`."""
    return _cosines(length).to(device=like.device, dtype=like.dtype)


def dct_low(
    z: Float[Tensor, "*batch height width"], size: int
) -> Float[Tensor, "*batch size size"]:
    """First `size` × `size` coefficients of the orthonormal 2-D DCT-II of each channel.

    Raises:
        ValueError: `size` exceeds the height or the width.
    """
    height, width = z.shape[-2:]
    if not 1 <= size <= min(height, width):
        raise ValueError(
            f"dct size {size} does not fit {height}×{width}: take 1 to {min(height, width)}"
        )
    return dct_basis(height, z)[:size] @ z @ dct_basis(width, z)[:size].mT


def idct_low(
    coefficients: Float[Tensor, "*batch size size"], height: int, width: int
) -> Float[Tensor, "*batch {height} {width}"]:
    """The low-pass image whose low coefficients are given and whose others are zero."""
    size = coefficients.shape[-1]
    rows, columns = dct_basis(height, coefficients), dct_basis(width, coefficients)
    return rows[:size].mT @ coefficients @ columns[:size]
