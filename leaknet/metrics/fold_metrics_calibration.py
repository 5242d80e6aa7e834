"""Calibration of the closed-set probabilities: does 80 % sure mean right four times in five?"""

from __future__ import annotations

import numpy as np
from jaxtyping import Bool, Float, Float64

BINS = 15


def expected_calibration_error(
    confidence: Float[np.ndarray, "n"],
    correct: Bool[np.ndarray, "n"],
    weights: Float64[np.ndarray, "resample n"] | None = None,
) -> Float64[np.ndarray, "resample"]:
    """ECE in [0, 1] of the top label, over 15 equal bins of confidence (Guo et al. 2017).

    The mean, weighted by the bins' sizes, of |accuracy - mean confidence| within a bin.
    """
    weights = np.ones((1, len(confidence))) if weights is None else weights
    bins = np.minimum((confidence * BINS).astype(np.int64), BINS - 1)
    member = (bins[:, None] == np.arange(BINS)).astype(np.float64)
    gaps = (weights * (correct - confidence.astype(np.float64))) @ member
    error: Float64[np.ndarray, "resample"] = np.abs(gaps).sum(axis=1) / weights.sum(axis=1)
    return error
