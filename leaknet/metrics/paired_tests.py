"""Is one run better than another? Paired tests on the same images, prompt group by group.

Differences are B minus A. Top-1 is tested by flipping the sign of each group's difference,
which is exact under the hypothesis that A and B are exchangeable within a group. Areas and
error rates are no means over images: they are tested by the paired bootstrap, whose p value is
the share of resamples on the far side of 0, doubled.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Float64, Int, Shaped

from leakcache.errors import ScoringError
from leaknet.metrics.bootstrap import RESAMPLES, cluster_weights
from leaknet.metrics.closed_set import closed_values, correct
from leaknet.metrics.open_set import open_values

PERMUTATIONS = 10_000


@dataclass(frozen=True)
class Difference:
    """B minus A: value, 95 % interval (paired bootstrap) and two-sided p value."""

    value: float
    low: float
    high: float
    p: float


@dataclass(frozen=True)
class OpenScoring:
    """What one run says of one set of images: its scores, and which known it attributed right."""

    known: Float[np.ndarray, "known"]
    unknown: Float[np.ndarray, "unknown"]
    correct: Bool[np.ndarray, "known"]


def compare_closed(
    a: Float[np.ndarray, "n class"],
    b: Float[np.ndarray, "n class"],
    targets: Int[np.ndarray, "n"],
    groups: Shaped[np.ndarray, "n"],
    *,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> dict[str, Difference]:
    """Differences of top1, balanced, macro_auc and ece between the class scores of two runs.

    Raises ScoringError for a single prompt group.
    """
    plain = _minus(closed_values(b, targets), closed_values(a, targets))
    draws = [
        _minus(closed_values(b, targets, w), closed_values(a, targets, w))
        for (w,) in cluster_weights([groups], resamples=resamples, seed=seed)
    ]
    differences = _differences(plain, draws)
    gain = correct(b, targets).astype(np.float64) - correct(a, targets)
    top1 = differences["top1"]
    p = sign_flip_p(gain, groups, seed=seed)
    return differences | {"top1": Difference(top1.value, top1.low, top1.high, p)}


def compare_open(
    a: OpenScoring,
    b: OpenScoring,
    known_groups: Shaped[np.ndarray, "known"],
    unknown_groups: Shaped[np.ndarray, "unknown"],
    *,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> dict[str, Difference]:
    """Differences of the open-set metrics between two runs; rows are the same images in both.

    Raises ScoringError where a set of images has a single prompt group.
    """

    def gap(weights: tuple[np.ndarray, np.ndarray] | None) -> dict[str, np.ndarray]:
        own, other = weights or (None, None)
        after, before = (open_values(s.known, s.unknown, s.correct, own, other) for s in (b, a))
        return _minus(after, before)

    sets = [known_groups, unknown_groups]
    draws = cluster_weights(sets, resamples=resamples, seed=seed)
    return _differences(gap(None), [gap((own, other)) for own, other in draws])


def sign_flip_p(
    differences: Float64[np.ndarray, "n"],
    groups: Shaped[np.ndarray, "n"],
    *,
    permutations: int = PERMUTATIONS,
    seed: int = 0,
) -> float:
    """Two-sided p value of a mean paired difference, the signs of whole groups being flipped.

    All sign patterns are tried where there are at most `permutations` of them; otherwise that
    many are drawn, and the observed one is counted among them.
    """
    if not len(differences):
        raise ScoringError("there are no images that both runs have scored")
    _, codes = np.unique(groups, return_inverse=True)
    sums = np.bincount(codes, weights=differences)
    sums = sums[sums != 0]
    if 2 ** len(sums) <= permutations:
        patterns = np.arange(2 ** len(sums))[:, None] >> np.arange(len(sums)) & 1
        return float(_as_extreme(patterns, sums).mean())
    rng = np.random.default_rng(seed)
    rows = max(1, 2_000_000 // len(sums))
    hits = 0
    for start in range(0, permutations, rows):
        size = (min(rows, permutations - start), len(sums))
        hits += int(_as_extreme(rng.integers(0, 2, size), sums).sum())
    return (1 + hits) / (1 + permutations)


def _as_extreme(
    patterns: Int[np.ndarray, "pattern group"], sums: Float64[np.ndarray, "group"]
) -> Bool[np.ndarray, "pattern"]:
    flipped = 2 * (patterns @ sums) - sums.sum()
    extreme: Bool[np.ndarray, "pattern"] = np.abs(flipped) >= abs(sums.sum()) - 1e-9
    return extreme


def _minus(
    after: Mapping[str, np.ndarray], before: Mapping[str, np.ndarray]
) -> dict[str, np.ndarray]:
    return {name: after[name] - before[name] for name in after}


def _differences(
    plain: Mapping[str, np.ndarray], draws: list[dict[str, np.ndarray]]
) -> dict[str, Difference]:
    return {
        name: _difference(float(value[0]), np.concatenate([draw[name] for draw in draws]))
        for name, value in plain.items()
    }


def _difference(value: float, drawn: Float64[np.ndarray, "resample"]) -> Difference:
    low, high = np.nanpercentile(drawn, (2.5, 97.5))
    tail = min(int((drawn <= 0).sum()), int((drawn >= 0).sum()))
    return Difference(value, float(low), float(high), min(1.0, 2 * (1 + tail) / (1 + len(drawn))))
