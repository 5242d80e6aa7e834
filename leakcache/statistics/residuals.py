"""The power spectrum of the high-pass residual: peaks and roll-off that up-sampling leaves.

Averaged over tiles (Welch, "The use of fast Fourier transform for the estimation of power
spectra", 1967); of denoised images: Corvi et al., "Intriguing properties of synthetic images",
2023.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Float32, Int64, UInt8
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


# Co-occurrences of quantised differences: which three steps follow one another.
#
# The features of rich models (Fridrich and Kodovský, "Rich models for steganalysis of digital
# images", 2012), along rows and columns.

STEP, MAX_STEP = 2.0, 3
LEVELS = 2 * MAX_STEP + 1
LENGTH_COOCCURRENCE = 3 * LEVELS**3
RARE = 1e-5


def cooccurrence(view: UInt8[np.ndarray, "height width 3"]) -> Float32[np.ndarray, " value"]:
    """log(share + RARE) of each triple of differences, for Y, Cb and Cr.

    Differences of neighbours are divided by 2, rounded and clipped to ±3.
    """
    counts = [_triples(plane) + _triples(plane.T) for plane in luma_chroma(view)]
    shares = [count / count.sum() for count in counts]
    return np.log(np.concatenate(shares) + RARE).astype(np.float32)


def _triples(plane: Float32[np.ndarray, "height width"]) -> Int64[np.ndarray, " triple"]:
    """How often each triple occurs along rows."""
    steps = np.rint((plane[:, 1:] - plane[:, :-1]) * (1 / STEP))
    codes = (np.clip(steps, -MAX_STEP, MAX_STEP) + MAX_STEP).astype(np.int16)
    triples = (codes[:, :-2] * LEVELS + codes[:, 1:-1]) * LEVELS + codes[:, 2:]
    return np.bincount(triples.ravel(), minlength=LEVELS**3).astype(np.int64)
