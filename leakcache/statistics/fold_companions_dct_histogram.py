"""Histograms of 8×8 DCT amplitudes, frequency by frequency.

First-digit and histogram statistics of DCT coefficients separate histories of compression and
generators alike (Bonettini et al., "On the use of Benford's law to detect GAN-generated images",
2020).
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Float32, UInt8

from leakcache.statistics.planes import amplitudes, luma_chroma

EDGES = (0.2, 0.5, 0.8, 1.1, 1.5, 2.0, 2.5, 3.0)
"""Inner edges of the bins of log(1 + |d|)."""
BINS = len(EDGES) + 1
LENGTH = 3 * 64 * BINS


def dct_histogram(view: UInt8[np.ndarray, "height width 3"]) -> Float32[np.ndarray, " value"]:
    """√(share of blocks in each bin), per plane and frequency, for Y, Cb and Cr."""
    found = amplitudes(luma_chroma(view), 8)
    # How many lie at or above each edge; a bin is the difference of two of these.
    edges = np.expm1(np.array(EDGES, np.float32))
    above = [np.ones((3, 64)), *((found >= edge).mean(axis=1) for edge in edges), np.zeros((3, 64))]
    shares = -np.diff(np.stack(above, axis=-1), axis=-1)
    return np.sqrt(shares).ravel().astype(np.float32)
