"""Open-set metrics, and the exact operating curve (ROC) of two sets of scores, ties included.

A higher score is more like the known; an image is accepted when its score is at least the
threshold. Curves have a leading axis of resamples; the plain curve has weights of 1.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Float64, Int

from leakcache.errors import ScoringError

Curve = Float64[np.ndarray, "resample point"]
Resampled = Float64[np.ndarray, "resample"]

# A weighted count that should equal a fraction of its total may miss it by rounding alone.
_ROUNDING = 1e-9


@dataclass(frozen=True)
class Roc:
    """Weights accepted at each threshold, from above all scores (nothing) down to the least.

    `known` and `unknown` rise along the last axis from 0 to the total weight of their set.
    Images of equal score have one point.
    """

    known: Curve
    unknown: Curve

    @property
    def tpr(self) -> Curve:
        """Fraction of the known that is accepted."""
        rate: Curve = self.known / self.known[:, -1:]
        return rate

    @property
    def fpr(self) -> Curve:
        """Fraction of the unknown that is accepted: the false acceptance rate."""
        rate: Curve = self.unknown / self.unknown[:, -1:]
        return rate

    def auroc(self) -> Resampled:
        """Probability that a known image outscores an unknown one; a tie counts one half."""
        return area(self.fpr, self.tpr)

    def average_precision(self) -> Resampled:
        """AUPR with the known as positives: sum of precision times each step of recall."""
        return _average_precision(self.known, self.unknown)

    def average_precision_of_unknown(self) -> Resampled:
        """AUPR with the unknown as positives: the precision of the alarm 'unknown generator'."""
        return _average_precision(_from_below(self.unknown), _from_below(self.known))

    def fpr_at_tpr(self, level: float) -> Resampled:
        """Unknown accepted at the highest threshold that accepts `level` of the known."""
        enough = self.tpr >= level - _ROUNDING
        return _pick(self.fpr, enough.argmax(axis=1))

    def at_fpr(self, values: Curve, level: float) -> Resampled:
        """`values` at the lowest threshold that accepts at most `level` of the unknown."""
        within = self.fpr <= level + _ROUNDING
        return _pick(values, within.sum(axis=1) - 1)

    def eer(self) -> Resampled:
        """The common value of false acceptance and false rejection where they cross.

        Both are linear between neighbouring points of the curve. (Eq. 19 of the paper prints
        min |FAR - FRR|, which is the distance at the crossing, not the rate.)
        """
        excess = self.fpr - (1 - self.tpr)
        after = (excess >= 0).argmax(axis=1)
        start, end = _pick(excess, after - 1), _pick(excess, after)
        low, high = _pick(self.fpr, after - 1), _pick(self.fpr, after)
        rate: Resampled = low - start / (end - start) * (high - low)
        return rate


def roc(
    known: Float[np.ndarray, "known"],
    unknown: Float[np.ndarray, "unknown"],
    known_weights: Float64[np.ndarray, "resample known"] | None = None,
    unknown_weights: Float64[np.ndarray, "resample unknown"] | None = None,
) -> Roc:
    """The curve of two sets of scores, one row for each row of weights (default: one, all 1).

    Raises ScoringError where a set is empty or a score is NaN.
    """
    for name, scores in (("known", known), ("unknown", unknown)):
        if not scores.size:
            raise ScoringError(f"there are no {name} images to score: give some of both kinds")
        if np.isnan(scores).any():
            raise ScoringError(f"a score of the {name} images is NaN: check the embeddings")
    thresholds = np.unique(np.concatenate([known, unknown]))[::-1]
    return Roc(
        _accepted(known, known_weights, thresholds),
        _accepted(unknown, unknown_weights, thresholds),
    )


def area(x: Curve, y: Curve) -> Resampled:
    """Area under y over x by the trapezoid rule, which splits ties in half."""
    total: Resampled = np.trapezoid(y, x, axis=1)
    return total


def _accepted(
    scores: Float[np.ndarray, "n"],
    weights: Float64[np.ndarray, "resample n"] | None,
    thresholds: Float[np.ndarray, "threshold"],
) -> Curve:
    weights = np.ones((1, len(scores))) if weights is None else weights
    order = np.argsort(scores)
    reached = len(scores) - np.searchsorted(scores[order], thresholds, side="left")
    cumulated = np.zeros((len(weights), len(scores) + 1))
    np.cumsum(weights[:, order[::-1]], axis=1, out=cumulated[:, 1:])
    return cumulated[:, np.concatenate([[0], reached])]


def _average_precision(positives: Curve, negatives: Curve) -> Resampled:
    taken = positives + negatives
    precision = np.divide(positives, taken, out=np.zeros_like(taken), where=taken > 0)
    gained = np.diff(positives, axis=1) * precision[:, 1:]
    total: Resampled = gained.sum(axis=1) / positives[:, -1]
    return total


def _from_below(accepted: Curve) -> Curve:
    rejected: Curve = accepted[:, -1:] - accepted[:, ::-1]
    return rejected


def _pick(values: Curve, at: np.ndarray) -> np.ndarray:
    return np.take_along_axis(values, at[:, None], axis=1)[:, 0]


def overlap(
    known: Float[np.ndarray, "known"],
    unknown: Float[np.ndarray, "unknown"],
    known_weights: Float64[np.ndarray, "resample known"] | None = None,
    unknown_weights: Float64[np.ndarray, "resample unknown"] | None = None,
) -> Float64[np.ndarray, "resample"]:
    """OVL in [0, 1]: overlap of the histograms of the two sets, for each row of weights.

    Bins hold equal fractions of the two sets together, each set counting one half. Bins of ranks
    need no bandwidth and do not change under an increasing transformation of the score. Their
    number is even, so that disjoint sets overlap by exactly 0, and grows as the cube root of the
    smaller set. The bins are those of the unweighted sets. Sampling noise lowers the figure: two
    samples of 500 from one distribution give about .93.
    """
    count = _even_cube_root(min(len(known), len(unknown)))
    fractions = [
        _bin_fractions(scores, weights, _bins(scores, known, unknown, count), count)
        for scores, weights in ((known, known_weights), (unknown, unknown_weights))
    ]
    total: Float64[np.ndarray, "resample"] = np.minimum(*fractions).sum(axis=1)
    return total


def _even_cube_root(n: int) -> int:
    return max(2, 2 * round(float(np.cbrt(n)) / 2))


def _bins(
    scores: Float[np.ndarray, "n"],
    known: Float[np.ndarray, "known"],
    unknown: Float[np.ndarray, "unknown"],
    count: int,
) -> Int[np.ndarray, "n"]:
    rank = (_mid_rank(scores, known) + _mid_rank(scores, unknown)) / 2
    bins: Int[np.ndarray, "n"] = np.minimum((rank * count).astype(np.int64), count - 1)
    return bins


def _mid_rank(
    scores: Float[np.ndarray, "n"], among: Float[np.ndarray, "m"]
) -> Float64[np.ndarray, "n"]:
    ordered = np.sort(among)
    below = np.searchsorted(ordered, scores, side="left")
    twice = below + np.searchsorted(ordered, scores, side="right")
    rank: Float64[np.ndarray, "n"] = twice / (2 * len(among))
    return rank


def _bin_fractions(
    scores: Float[np.ndarray, "n"],
    weights: Float64[np.ndarray, "resample n"] | None,
    bins: Int[np.ndarray, "n"],
    count: int,
) -> Float64[np.ndarray, "resample bin"]:
    weights = np.ones((1, len(scores))) if weights is None else weights
    held = weights @ (bins[:, None] == np.arange(count)).astype(np.float64)
    fractions: Float64[np.ndarray, "resample bin"] = held / held.sum(axis=1, keepdims=True)
    return fractions


LOWER_IS_BETTER = frozenset({"fpr95", "eer", "ovl"})


def auroc(known: Float[np.ndarray, "known"], unknown: Float[np.ndarray, "unknown"]) -> float:
    """AUROC alone, for choices among settings; errors as `open_values`."""
    return float(roc(known, unknown).auroc()[0])


def open_values(
    known: Float[np.ndarray, "known"],
    unknown: Float[np.ndarray, "unknown"],
    correct: Bool[np.ndarray, "known"],
    known_weights: Float64[np.ndarray, "resample known"] | None = None,
    unknown_weights: Float64[np.ndarray, "resample unknown"] | None = None,
) -> dict[str, Float64[np.ndarray, "resample"]]:
    """Open-set metrics by name, all in [0, 1], one value for each row of weights.

    `auroc`: probability that a known image outscores an unknown one; a tie counts one half.
    `aupr`: average precision with the *unknown* as positives; `aupr_known`: with the known as
    positives. Both depend on the sizes of the sets. `fpr95`: fraction of the unknown accepted at
    the highest threshold that accepts 95 % of the known. `eer`: the rate at which false acceptance
    equals false rejection. `ovl`: overlap of the score distributions (`overlap`). `oscr`: area
    under the correct classification rate (known images accepted *and* given their right class)
    over the fraction of the unknown accepted (Dhamija et al. 2018); at most top-1 accuracy.
    `ccr1`, `ccr5`, `ccr10`: that rate where at most 1, 5 and 10 % of the unknown are accepted.

    Args:
        known: scores of known images; higher is more like the known.
        unknown: scores of unknown images.
        correct: which known images were given their right class.
        known_weights: weights of the known images; None counts each once.
        unknown_weights: weights of the unknown images.

    Raises:
        ScoringError: a set is empty, or a score is NaN.
    """
    curve = roc(known, unknown, known_weights, unknown_weights)
    kept = np.ones((1, len(known))) if known_weights is None else known_weights
    ccr = roc(known, unknown, kept * correct, unknown_weights).known / curve.known[:, -1:]
    return {
        "auroc": curve.auroc(),
        "aupr": curve.average_precision_of_unknown(),
        "aupr_known": curve.average_precision(),
        "fpr95": curve.fpr_at_tpr(0.95),
        "eer": curve.eer(),
        "ovl": overlap(known, unknown, known_weights, unknown_weights),
        "oscr": area(curve.fpr, ccr),
        "ccr1": curve.at_fpr(ccr, 0.01),
        "ccr5": curve.at_fpr(ccr, 0.05),
        "ccr10": curve.at_fpr(ccr, 0.10),
    }
