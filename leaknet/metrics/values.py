"""Closed-set and open-set metrics as functions of scores, and the exact operating curve (ROC).

A higher score is more like the known; an image is accepted when its score is at least the
threshold. Curves and values have a leading axis of resamples; the plain ones have weights of 1.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Float64, Int
from scipy.special import logsumexp, softmax

from leakcache.errors import ScoringError

# A higher score is more like the known; an image is accepted when its score is at least the
# threshold. Curves have a leading axis of resamples; the plain curve has weights of 1.
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
    count = max(2, 2 * round(float(np.cbrt(min(len(known), len(unknown)))) / 2))
    fractions = []
    for scores, weights in ((known, known_weights), (unknown, unknown_weights)):
        rank = (_mid_rank(scores, known) + _mid_rank(scores, unknown)) / 2
        bins = np.minimum((rank * count).astype(np.int64), count - 1)
        fractions.append(_bin_fractions(weights, bins, count))
    total: Float64[np.ndarray, "resample"] = np.minimum(*fractions).sum(axis=1)
    return total


def _mid_rank(
    scores: Float[np.ndarray, "n"], among: Float[np.ndarray, "m"]
) -> Float64[np.ndarray, "n"]:
    ordered = np.sort(among)
    below = np.searchsorted(ordered, scores, side="left")
    twice = below + np.searchsorted(ordered, scores, side="right")
    rank: Float64[np.ndarray, "n"] = twice / (2 * len(among))
    return rank


def _bin_fractions(
    weights: Float64[np.ndarray, "resample n"] | None, bins: Int[np.ndarray, "n"], count: int
) -> Float64[np.ndarray, "resample bin"]:
    weights = np.ones((1, len(bins))) if weights is None else weights
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


Scores = Float[np.ndarray, "n class"]
Targets = Int[np.ndarray, "n"]
Weights = Float64[np.ndarray, "resample n"]

BINS = 15
TOP5_CLASSES = 10
"""Top-5 accuracy is given with more classes than this."""


def expected_calibration_error(
    confidence: Float[np.ndarray, "n"],
    correct: Bool[np.ndarray, "n"],
    weights: Weights | None = None,
) -> Resampled:
    """ECE in [0, 1] of the top label, over 15 equal bins of confidence (Guo et al. 2017).

    The mean, weighted by the bins' sizes, of |accuracy - mean confidence| within a bin.
    """
    weights = np.ones((1, len(confidence))) if weights is None else weights
    bins = np.minimum((confidence * BINS).astype(np.int64), BINS - 1)
    member = (bins[:, None] == np.arange(BINS)).astype(np.float64)
    gaps = (weights * (correct - confidence.astype(np.float64))) @ member
    error: Resampled = np.abs(gaps).sum(axis=1) / weights.sum(axis=1)
    return error


def closed_values(
    scores: Scores, targets: Targets, weights: Weights | None = None
) -> dict[str, Resampled]:
    """Closed-set metrics by name, all in [0, 1], one value for each row of weights.

    `top1` and `balanced` (mean recall of the classes present) are those of the class of the
    highest score, the first where several tie. `top5`: the true class is among the five highest
    scores; present with more than ten classes. `macro_auc`: mean of the one-vs-rest areas of the
    classes present. `ece`: expected calibration error of the softmax of the scores.

    Args:
        scores: class scores; their softmax is the probability.
        targets: the true classes.
        weights: of the images; None counts each once.

    Raises:
        ScoringError: there is no image, a score is NaN, a target is not a class, or all images
            are of one class.
    """
    return closed_table(scores, targets, weights)[0]


def closed_table(
    scores: Scores, targets: Targets, weights: Weights | None = None
) -> tuple[dict[str, Resampled], Float64[np.ndarray, "resample class"]]:
    """The metrics of `closed_values`, and the one-vs-rest area of each class."""
    _check(scores, targets)
    weights = np.ones((1, len(targets))) if weights is None else weights
    right, total = correct(scores, targets), weights.sum(axis=1)
    confidence = softmax(scores.astype(np.float64), axis=1).max(axis=1)
    areas = per_class_auc(scores, targets, weights)
    values = {"top1": (weights @ right) / total}
    if scores.shape[1] > TOP5_CLASSES:
        values["top5"] = (weights @ (true_rank(scores, targets) < 5)) / total
    values |= {
        "balanced": _balanced(right, targets, weights),
        "macro_auc": _mean_of_present(areas),
        "ece": expected_calibration_error(confidence, right, weights),
    }
    return values, areas


def true_rank(scores: Scores, targets: Targets) -> Targets:
    """How many classes score higher than the true one; of equal scores the first class leads."""
    own = np.take_along_axis(scores, targets[:, None], axis=1)
    tied = (scores == own) & (np.arange(scores.shape[1]) < targets[:, None])
    rank: Targets = ((scores > own) | tied).sum(axis=1)
    return rank


def correct(scores: Scores, targets: Targets) -> Bool[np.ndarray, "n"]:
    """Whether the class of the highest score is the true one."""
    right: Bool[np.ndarray, "n"] = scores.argmax(axis=1) == targets
    return right


def confusion(scores: Scores, targets: Targets) -> Int[np.ndarray, "class class"]:
    """Counts of images by true class (row) and class of the highest score (column)."""
    classes = scores.shape[1]
    cell = targets * classes + scores.argmax(axis=1)
    return np.bincount(cell, minlength=classes**2).reshape(classes, classes)


def per_class_auc(
    scores: Scores, targets: Targets, weights: Weights | None = None
) -> Float64[np.ndarray, "resample class"]:
    """One-vs-rest area of each class, ranked by its probability; NaN where it is absent."""
    weights = np.ones((1, len(targets))) if weights is None else weights
    odds = log_odds(scores)
    areas = np.full((len(weights), scores.shape[1]), np.nan)
    for c in np.unique(targets):
        own = targets == c
        if own.all():
            continue
        curve = roc(odds[own, c], odds[~own, c], weights[:, own], weights[:, ~own])
        both = (curve.known[:, -1] > 0) & (curve.unknown[:, -1] > 0)
        with np.errstate(invalid="ignore"):
            areas[:, c] = np.where(both, curve.auroc(), np.nan)
    return areas


def log_odds(scores: Scores) -> Float64[np.ndarray, "n class"]:
    """Log odds of each class under the softmax of the scores.

    They rank images as the probabilities do, but do not run into 0 or 1, where distances of a
    few hundred would make all images equal.
    """
    logits = scores.astype(np.float64)
    logits -= logits.max(axis=1, keepdims=True)
    if logits.shape[1] == 1:
        return logits
    # Sorted, so that the rounding of the sum can't part images whose scores are permuted.
    others = [np.sort(np.delete(logits, c, axis=1), axis=1) for c in range(logits.shape[1])]
    odds: Float64[np.ndarray, "n class"] = logits - np.stack(
        [logsumexp(rest, axis=1) for rest in others], axis=1
    )
    return odds


def _balanced(right: Bool[np.ndarray, "n"], targets: Targets, weights: Weights) -> Resampled:
    member = (targets[:, None] == np.unique(targets)).astype(np.float64)
    held, hit = weights @ member, (weights * right) @ member
    recall = np.divide(hit, held, out=np.full_like(held, np.nan), where=held > 0)
    return _mean_of_present(recall)


def _mean_of_present(values: Float64[np.ndarray, "resample class"]) -> Resampled:
    present = ~np.isnan(values)
    count = present.sum(axis=1)
    total = np.where(present, values, 0).sum(axis=1)
    mean: Resampled = np.full_like(total, np.nan)
    np.divide(total, count, out=mean, where=count > 0)
    return mean


def _check(scores: Scores, targets: Targets) -> None:
    if not len(targets):
        raise ScoringError("there are no images of the known generators to score in this fold")
    if np.isnan(scores).any():
        raise ScoringError("a class score is NaN: check the embeddings")
    if targets.min() < 0 or targets.max() >= scores.shape[1]:
        raise ScoringError("an image of no known class cannot be evaluated in the closed set")
    if len(np.unique(targets)) < 2:
        raise ScoringError(
            "all images of this fold are of one class, so classes cannot be compared: "
            "score a fold with two classes or more"
        )
