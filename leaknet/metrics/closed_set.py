"""Closed set: which of the known generators made the image, and how well that is told."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Float64, Int
from scipy.special import log_softmax, logsumexp, softmax

from leakcache.errors import ScoringError
from leaknet.metrics.roc import roc

# Calibration of the closed-set probabilities: does 80 % sure mean right four times in five?

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


@dataclass(frozen=True)
class ClosedScores:
    """All in [0, 1].

    `top1` and `balanced` (mean recall of the classes present) judge the class of the highest
    score, the first of them where several tie. `macro_auc` is the unweighted mean of the
    one-vs-rest areas in `per_class_auc`, which is NaN for a class that the images lack and
    which the mean then leaves out. `ece` is the expected calibration error of the softmax.
    `confusion[i, j]` counts images of class i that were taken for class j.
    """

    top1: float
    balanced: float
    macro_auc: float
    ece: float
    per_class_auc: Float64[np.ndarray, "class"]
    confusion: Int[np.ndarray, "class class"]
    classes: tuple[str, ...]

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON; an area that does not exist is None."""
        areas = [None if np.isnan(a) else float(a) for a in self.per_class_auc]
        return {
            "top1": self.top1,
            "balanced": self.balanced,
            "macro_auc": self.macro_auc,
            "ece": self.ece,
            "per_class_auc": dict(zip(self.classes, areas, strict=True)),
            "confusion": self.confusion.tolist(),
            "classes": list(self.classes),
        }


def closed_scores(
    scores: Float[np.ndarray, "n class"], targets: Int[np.ndarray, "n"], classes: tuple[str, ...]
) -> ClosedScores:
    """Judge class scores (logits: their softmax is the probability) against the true classes.

    Raises ScoringError where there is no image, a score is NaN, a target is not a class, or all
    images are of one class.
    """
    values = closed_values(scores, targets)
    return ClosedScores(
        **{name: float(value[0]) for name, value in values.items()},
        per_class_auc=per_class_auc(scores, targets)[0],
        confusion=confusion(scores, targets),
        classes=classes,
    )


def closed_values(
    scores: Float[np.ndarray, "n class"],
    targets: Int[np.ndarray, "n"],
    weights: Float64[np.ndarray, "resample n"] | None = None,
) -> dict[str, Float64[np.ndarray, "resample"]]:
    """The scalar metrics of `ClosedScores` by name, one value for each row of weights."""
    _check(scores, targets)
    weights = np.ones((1, len(targets))) if weights is None else weights
    right = correct(scores, targets)
    confidence = softmax(scores.astype(np.float64), axis=1).max(axis=1)
    return {
        "top1": (weights @ right) / weights.sum(axis=1),
        "balanced": _balanced(right, targets, weights),
        "macro_auc": _mean_of_present(per_class_auc(scores, targets, weights)),
        "ece": expected_calibration_error(confidence, right, weights),
    }


def correct(
    scores: Float[np.ndarray, "n class"], targets: Int[np.ndarray, "n"]
) -> Bool[np.ndarray, "n"]:
    """Whether the class of the highest score is the true one."""
    right: Bool[np.ndarray, "n"] = scores.argmax(axis=1) == targets
    return right


def confusion(
    scores: Float[np.ndarray, "n class"], targets: Int[np.ndarray, "n"]
) -> Int[np.ndarray, "class class"]:
    """Counts of images by true class (row) and class of the highest score (column)."""
    classes = scores.shape[1]
    cell = targets * classes + scores.argmax(axis=1)
    return np.bincount(cell, minlength=classes**2).reshape(classes, classes)


def per_class_auc(
    scores: Float[np.ndarray, "n class"],
    targets: Int[np.ndarray, "n"],
    weights: Float64[np.ndarray, "resample n"] | None = None,
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


def log_odds(scores: Float[np.ndarray, "n class"]) -> Float64[np.ndarray, "n class"]:
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


def log_confidence(scores: Float[np.ndarray, "n class"]) -> Float64[np.ndarray, "n"]:
    """Log of the highest softmax probability."""
    highest: Float64[np.ndarray, "n"] = log_softmax(scores.astype(np.float64), axis=1).max(axis=1)
    return highest


def _balanced(
    right: Bool[np.ndarray, "n"],
    targets: Int[np.ndarray, "n"],
    weights: Float64[np.ndarray, "resample n"],
) -> Float64[np.ndarray, "resample"]:
    member = (targets[:, None] == np.unique(targets)).astype(np.float64)
    held, hit = weights @ member, (weights * right) @ member
    recall = np.divide(hit, held, out=np.full_like(held, np.nan), where=held > 0)
    return _mean_of_present(recall)


def _mean_of_present(
    values: Float64[np.ndarray, "resample class"],
) -> Float64[np.ndarray, "resample"]:
    present = ~np.isnan(values)
    count = present.sum(axis=1)
    total = np.where(present, values, 0).sum(axis=1)
    mean: Float64[np.ndarray, "resample"] = np.full_like(total, np.nan)
    np.divide(total, count, out=mean, where=count > 0)
    return mean


def _check(scores: Float[np.ndarray, "n class"], targets: Int[np.ndarray, "n"]) -> None:
    if not len(targets):
        raise ScoringError("there are no images of the known generators to score in this fold")
    if np.isnan(scores).any():
        raise ScoringError("a class score is NaN: check the embeddings")
    if targets.min() < 0 or targets.max() >= scores.shape[1]:
        raise ScoringError("an image of no known class cannot be judged in the closed set")
    if len(np.unique(targets)) < 2:
        raise ScoringError(
            "all images of this fold are of one class, so nothing can be told apart: "
            "score a fold with two classes or more"
        )
