"""The exact operating curve (ROC), ties included.

A higher score is more like the known; an image is accepted when its score is at least the
threshold. Curves have a leading axis of resamples; the plain curve has weights of 1.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Float64

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
