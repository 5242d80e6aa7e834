"""Amplitudes of the 8×8 block DCT: how strong each frequency is, how often, how unevenly.

The statistics that tell generators apart in the DCT domain (Frank et al., "Leveraging frequency
analysis for deep fake image recognition", 2020), taken on the blocks of a JPEG file, whose
tables they also show: see docs/AUDIT.md and the canonical track.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Float32, UInt8

from leakcache.statistics.patch_covariance import length
from leakcache.statistics.planes import amplitudes, luma_chroma

LENGTH = 3 * 3 * 64
LARGE = 4.0
RARE = 1e-2


def block_dct(view: UInt8[np.ndarray, "height width 3"]) -> Float32[np.ndarray, " value"]:
    """Per plane and frequency, over blocks, for Y, Cb and Cr.

    log(1 + mean |d|), log(share of |d| > 4, plus 1 %), and log(1 + RMS) - log(1 + mean |d|).
    """
    found = amplitudes(luma_chroma(view), 8)
    mean = np.log1p(found.mean(axis=1))
    often = np.log(RARE + (found > LARGE).mean(axis=1, dtype=np.float32))
    uneven = np.log1p(np.sqrt(np.square(found).mean(axis=1))) - mean
    return np.stack([mean, often, uneven], axis=1).ravel().astype(np.float32)


# Mean amplitudes of the 16×16 block DCT: a finer spectrum than that of 8×8 blocks.
#
# Twice the block of JPEG and of the latent grid, so that patterns of period 8 stand out as
# frequencies of their own (Frank et al., "Leveraging frequency analysis for deep fake image
# recognition", 2020).

LENGTH_WIDE_DCT = 3 * 256


def wide_dct(view: UInt8[np.ndarray, "height width 3"]) -> Float32[np.ndarray, " value"]:
    """log(1 + mean |d|) per plane and frequency, over blocks, for Y, Cb and Cr."""
    found = amplitudes(luma_chroma(view), 16)
    logs: np.ndarray = np.log1p(found.mean(axis=1)).ravel()
    return logs.astype(np.float32)


# Histograms of 8×8 DCT amplitudes, frequency by frequency.
#
# First-digit and histogram statistics of DCT coefficients separate histories of compression and
# generators alike (Bonettini et al., "On the use of Benford's law to detect GAN-generated images",
# 2020).

EDGES = (0.2, 0.5, 0.8, 1.1, 1.5, 2.0, 2.5, 3.0)
"""Inner edges of the bins of log(1 + |d|)."""
BINS = len(EDGES) + 1
LENGTH_DCT_HISTOGRAM = 3 * 64 * BINS


def dct_histogram(view: UInt8[np.ndarray, "height width 3"]) -> Float32[np.ndarray, " value"]:
    """√(share of blocks in each bin), per plane and frequency, for Y, Cb and Cr."""
    found = amplitudes(luma_chroma(view), 8)
    # How many lie at or above each edge; a bin is the difference of two of these.
    edges = np.expm1(np.array(EDGES, np.float32))
    above = [np.ones((3, 64)), *((found >= edge).mean(axis=1) for edge in edges), np.zeros((3, 64))]
    shares = -np.diff(np.stack(above, axis=-1), axis=-1)
    return np.sqrt(shares).ravel().astype(np.float32)


# Which frequencies of an 8×8 block are strong together: correlations of log-amplitudes of luma.
#
# Second-order statistics of DCT magnitudes, blind to how strong each frequency is by itself; with
# it the spread of each (joint statistics of coefficients: Kodovský and Fridrich, "Calibration
# revisited", 2009, for JPEG steganalysis).

LENGTH_DCT_CORRELATION = length(64) + 64
CONSTANT = 1e-3
"""A standard deviation below this is that of a constant, which correlates with nothing."""


def dct_correlation(view: UInt8[np.ndarray, "height width 3"]) -> Float32[np.ndarray, " value"]:
    """Upper triangle of the correlations of log(1 + |d|) over blocks, then its deviations."""
    logs = np.log1p(amplitudes(luma_chroma(view)[:1], 8)[0])
    spread = logs.std(axis=0)
    scaled = (logs - logs.mean(axis=0)) / np.maximum(spread, CONSTANT)
    correlations = scaled.T @ scaled / len(logs)
    triangle = correlations[np.triu_indices(64)]
    return np.concatenate([triangle, spread]).astype(np.float32)
