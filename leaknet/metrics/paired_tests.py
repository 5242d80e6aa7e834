"""p values of paired differences on the same images, by prompt group."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float64, Shaped

from leakcache.errors import ScoringError

PERMUTATIONS = 10_000


def sign_flip_p(
    differences: Float64[np.ndarray, "n"],
    groups: Shaped[np.ndarray, "n"],
    *,
    permutations: int = PERMUTATIONS,
    seed: int = 0,
) -> float:
    """Two-sided p value of a mean paired difference: the signs of whole groups are flipped.

    Exact if the two sides are exchangeable within a group. All sign patterns are tried where there
    are at most `permutations` of them; otherwise that many are drawn.

    Raises:
        ScoringError: there are no images.
    """
    if not len(differences):
        raise ScoringError("there are no images that both runs have scored")
    _, codes = np.unique(groups, return_inverse=True)
    sums = np.bincount(codes, weights=differences)
    sums = sums[sums != 0]
    if len(sums) < 2:
        return 1.0
    # Importing scipy.stats costs a second, which scoring need not pay.
    from scipy.stats import permutation_test

    found = permutation_test(
        (sums,),
        np.sum,
        permutation_type="samples",
        vectorized=True,
        n_resamples=permutations,
        batch=max(1, 2_000_000 // len(sums)),
        rng=np.random.default_rng(seed),
    )
    return float(found.pvalue)


def bootstrap_p(resampled: Float64[np.ndarray, "resample"]) -> float:
    """Two-sided p value that a difference is 0: the resamples on its far side, doubled."""
    tail = min(int((resampled <= 0).sum()), int((resampled >= 0).sum()))
    return min(1.0, 2 * (1 + tail) / (1 + len(resampled)))
