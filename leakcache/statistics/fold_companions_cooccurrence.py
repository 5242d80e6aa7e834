"""Co-occurrences of quantised differences: which three steps follow one another.

The features of rich models (Fridrich and Kodovský, "Rich models for steganalysis of digital
images", 2012), along rows and columns.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Float32, Int64, UInt8

from leakcache.statistics.planes import luma_chroma

STEP, LIMIT = 2.0, 3
LEVELS = 2 * LIMIT + 1
LENGTH = 3 * LEVELS**3
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
    codes = (np.clip(steps, -LIMIT, LIMIT) + LIMIT).astype(np.int16)
    triples = (codes[:, :-2] * LEVELS + codes[:, 1:-1]) * LEVELS + codes[:, 2:]
    return np.bincount(triples.ravel(), minlength=LEVELS**3).astype(np.int64)
