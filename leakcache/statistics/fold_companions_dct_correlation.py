"""Which frequencies of an 8×8 block are strong together: correlations of log-amplitudes of luma.

Second-order statistics of DCT magnitudes, blind to how strong each frequency is by itself; with
it the spread of each (joint statistics of coefficients: Kodovský and Fridrich, "Calibration
revisited", 2009, for JPEG steganalysis).
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Float32, UInt8

from leakcache.statistics.patch_covariance import length
from leakcache.statistics.planes import amplitudes, luma_chroma

LENGTH = length(64) + 64
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
