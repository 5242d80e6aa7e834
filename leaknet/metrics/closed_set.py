"""Closed-set metrics: which of the known generators made an image."""

from __future__ import annotations

import numpy as np
from jaxtyping import Bool, Float, Float64, Int
from scipy.special import logsumexp, softmax

from leakcache.errors import ScoringError
from leaknet.metrics.open_set import roc

Scores = Float[np.ndarray, "n class"]
Targets = Int[np.ndarray, "n"]
Weights = Float64[np.ndarray, "resample n"]
Resampled = Float64[np.ndarray, "resample"]

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
