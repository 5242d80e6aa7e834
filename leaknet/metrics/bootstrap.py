"""Bootstrap and paired tests by prompt group.

Images of one prompt resemble one another, so whole prompt groups are drawn, with all of their
images, known and unknown. Groups are drawn with replacement within strata: those that occur in
the same sets of images (in the known alone, in one unknown generator alone, in all of them, ...),
so that no resample lacks a set. A drawn group becomes a weight on its images.

Intervals are the 2.5 and 97.5 percentiles. They cover the choice of images, not the training
seed. They lie too low for OVL, whose estimate noise lowers, and too high for ECE.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from jaxtyping import Float64, Shaped

from leakcache.errors import ScoringError

GroupSets = Sequence[Shaped[np.ndarray, "_"]]

RESAMPLES = 1000
# Weights held at once: 16 MB.
_BLOCK = 2_000_000

Weights = Float64[np.ndarray, "resample _"]
K = TypeVar("K", bound=Hashable)
Measure = Callable[[Sequence[Weights] | None], Mapping[K, Float64[np.ndarray, "resample"]]]
"""Metrics of some sets of images, one value for each row of weights; None weighs all equally."""


@dataclass(frozen=True)
class Interval:
    """A metric on the images as they are, and its 95 % interval."""

    value: float
    low: float
    high: float


def ends(resampled: Float64[np.ndarray, "resample"]) -> tuple[float, float]:
    """The 95 % percentile interval; values that do not exist are left out."""
    low, high = np.nanpercentile(resampled, (2.5, 97.5))
    return float(low), float(high)


def intervals(
    measure: Measure[K], groups: GroupSets, *, resamples: int = RESAMPLES, seed: int = 0
) -> dict[K, Interval]:
    """Every metric with its interval; arguments and errors as `resample`."""
    plain, drawn = measure(None), resample(measure, groups, resamples=resamples, seed=seed)
    return {key: Interval(float(plain[key][0]), *ends(drawn[key])) for key in drawn}


def resample(
    measure: Measure[K], groups: GroupSets, *, resamples: int = RESAMPLES, seed: int = 0
) -> dict[K, Float64[np.ndarray, "resample"]]:
    """Every metric under every resample.

    Args:
        measure: the metrics.
        groups: prompt group of every image, one array for each set that `measure` weighs.
        resamples: how many.
        seed: of the draw.

    Raises:
        ScoringError: a set has a single group.
    """
    blocks = [measure(w) for w in cluster_weights(groups, resamples=resamples, seed=seed)]
    return {key: np.concatenate([block[key] for block in blocks]) for key in blocks[0]}


def cluster_weights(
    groups: GroupSets, *, resamples: int = RESAMPLES, seed: int = 0
) -> Iterator[list[Weights]]:
    """Bootstrap weights of several sets of images, given the prompt group of each image.

    Yields blocks of resamples; in each, one table a set with the number of times that each image
    was drawn. The blocks together have `resamples` rows and depend on nothing but the groups
    and the seed. Raises ScoringError where a set has a single group.
    """
    names, codes = np.unique(np.concatenate(groups), return_inverse=True)
    sets = np.split(codes, np.cumsum([len(g) for g in groups])[:-1])
    member = np.stack([np.bincount(s, minlength=len(names)) > 0 for s in sets], axis=1)
    if (member.sum(axis=0) < 2).any():
        raise ScoringError(
            "an interval needs two prompt groups in every set of images: give the groups in an "
            "index file, or add images of other prompts"
        )
    _, strata = np.unique(member, axis=0, return_inverse=True)
    rng = np.random.default_rng(seed)
    for size in _blocks(resamples, len(codes)):
        drawn = np.zeros((size, len(names)))
        for stratum in range(strata.max() + 1):
            members = np.flatnonzero(strata == stratum)
            even = np.full(len(members), 1 / len(members))
            drawn[:, members] = rng.multinomial(len(members), even, size=size)
        yield [drawn[:, s] for s in sets]


def _blocks(resamples: int, width: int) -> Iterator[int]:
    size = max(1, _BLOCK // max(1, width))
    for start in range(0, resamples, size):
        yield min(size, resamples - start)


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
