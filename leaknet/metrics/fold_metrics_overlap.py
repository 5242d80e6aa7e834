"""OVL: how much of two score distributions lies under both densities, from 0 to 1.

The estimate is the overlap of two histograms whose bins each hold an equal share of the two
sets together (every set counting one half). Bins made of ranks need no bandwidth or range,
do not change under any increasing transformation of the score, and keep equal scores
together. Their number is even, so that sets which do not meet overlap by exactly 0, and grows
as the cube root of the smaller set. Sampling noise lowers the figure: two samples of 500 from
one distribution give about .93, not 1.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Float, Float64, Int


def overlap(
    known: Float[np.ndarray, "known"],
    unknown: Float[np.ndarray, "unknown"],
    known_weights: Float64[np.ndarray, "resample known"] | None = None,
    unknown_weights: Float64[np.ndarray, "resample unknown"] | None = None,
) -> Float64[np.ndarray, "resample"]:
    """Sum over the bins of the smaller of the two shares, for each row of weights.

    The bins are those of the unweighted sets, so that resamples share them.
    """
    count = _even_cube_root(min(len(known), len(unknown)))
    shares = [
        _shares(scores, weights, _bins(scores, known, unknown, count), count)
        for scores, weights in ((known, known_weights), (unknown, unknown_weights))
    ]
    total: Float64[np.ndarray, "resample"] = np.minimum(*shares).sum(axis=1)
    return total


def _even_cube_root(n: int) -> int:
    return max(2, 2 * round(float(np.cbrt(n)) / 2))


def _bins(
    scores: Float[np.ndarray, "n"],
    known: Float[np.ndarray, "known"],
    unknown: Float[np.ndarray, "unknown"],
    count: int,
) -> Int[np.ndarray, "n"]:
    place = (_mid_rank(scores, known) + _mid_rank(scores, unknown)) / 2
    bins: Int[np.ndarray, "n"] = np.minimum((place * count).astype(np.int64), count - 1)
    return bins


def _mid_rank(
    scores: Float[np.ndarray, "n"], among: Float[np.ndarray, "m"]
) -> Float64[np.ndarray, "n"]:
    ordered = np.sort(among)
    below = np.searchsorted(ordered, scores, side="left")
    twice = below + np.searchsorted(ordered, scores, side="right")
    rank: Float64[np.ndarray, "n"] = twice / (2 * len(among))
    return rank


def _shares(
    scores: Float[np.ndarray, "n"],
    weights: Float64[np.ndarray, "resample n"] | None,
    bins: Int[np.ndarray, "n"],
    count: int,
) -> Float64[np.ndarray, "resample bin"]:
    weights = np.ones((1, len(scores))) if weights is None else weights
    held = weights @ (bins[:, None] == np.arange(count)).astype(np.float64)
    shares: Float64[np.ndarray, "resample bin"] = held / held.sum(axis=1, keepdims=True)
    return shares
