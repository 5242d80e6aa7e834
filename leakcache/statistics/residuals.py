"""The power spectrum of the high-pass residual: peaks and roll-off that up-sampling leaves.

Averaged over tiles (Welch, "The use of fast Fourier transform for the estimation of power
spectra", 1967); of denoised images: Corvi et al., "Intriguing properties of synthetic images",
2023.
"""

from __future__ import annotations

import torch
from jaxtyping import Float32
from torch import Tensor

from leakcache.statistics.planes import Planes, residuals

TILE = 64
"""Frequencies are multiples of 1/64: those of lattices of 2, 4, 8, 16 pixels are among them."""
HALF = TILE // 2 + 1
RESIDUAL_SPECTRUM_LENGTH = 3 * HALF * HALF
LIMIT = 20.0
"""Grey levels at which residuals are clipped."""
FLOOR = 1e-4


def residual_spectrum(planes: Planes) -> Float32[Tensor, "batch part value"]:
    """log(power + FLOOR) per plane and |frequency|, for Y, Cb and Cr; (u, v) and (-u, v) as one."""
    return planes.of_each_part(_spectrum)


def _spectrum(
    luma_chroma: Float32[Tensor, "view 3 height width"],
) -> Float32[Tensor, "view value"]:
    found = residuals(luma_chroma, LIMIT)
    rows, columns = (length // TILE for length in found.shape[2:])
    tiles = found[:, :, : rows * TILE, : columns * TILE]
    tiles = tiles.reshape(-1, 3, rows, TILE, columns, TILE).transpose(3, 4)
    transform = torch.view_as_real(torch.fft.rfft2(tiles)).flatten(2, 3)
    power = transform.square().mean(2).sum(-1) / TILE**2
    mirrored = power[:, :, -torch.arange(TILE, device=power.device) % TILE]
    folded = (power + mirrored)[:, :, :HALF] / 2
    return (folded + FLOOR).log().flatten(1)
