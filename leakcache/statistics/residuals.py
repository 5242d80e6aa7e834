"""The power spectrum of the high-pass residual: peaks and roll-off that up-sampling leaves.

Averaged over tiles (Welch, "The use of fast Fourier transform for the estimation of power
spectra", 1967); of denoised images: Corvi et al., "Intriguing properties of synthetic images",
2023.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Float32, UInt8
from scipy.fft import rfft2

from leakcache.statistics.planes import luma_chroma, residuals

TILE = 64
"""Frequencies are multiples of 1/64: those of lattices of 2, 4, 8, 16 pixels are among them."""
HALF = TILE // 2 + 1
LENGTH = 3 * HALF * HALF
LIMIT = 20.0
FLOOR = 1e-4


def residual_spectrum(
    view: UInt8[np.ndarray, "height width 3"],
) -> Float32[np.ndarray, " value"]:
    """log(power + FLOOR) per plane and |frequency|, for Y, Cb and Cr; (u, v) and (-u, v) as one."""
    found = residuals(luma_chroma(view), LIMIT)
    rows, columns = found.shape[1] // TILE, found.shape[2] // TILE
    tiles = found[:, : rows * TILE, : columns * TILE].reshape(3, rows, TILE, columns, TILE)
    power = np.square(np.abs(rfft2(tiles, axes=(2, 4)))).mean(axis=(1, 3)) / TILE**2
    mirrored = power[:, -np.arange(TILE)]
    folded = (power + mirrored)[:, :HALF] / 2
    logs: np.ndarray = np.log(folded + FLOOR).ravel()
    return logs.astype(np.float32)
