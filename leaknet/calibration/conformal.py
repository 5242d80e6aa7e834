"""Split conformal prediction: how often would a known image look this strange?

The one function is the p-value of a score against reference scores, (1 + number of references
that are no higher) / (1 + number of references). If the image and the n references are
exchangeable then P(p ≤ α) ≤ α for every α and n, whatever the score (Vovk et al. 2005). From a
detector's score it says whether the image comes from a known generator at all; from the
probability of each class it gives the set of generators that can't be excluded (the "least
ambiguous" sets of Sadinle et al. 2019), which holds the right one with probability 1 − α or more.

Images of one prompt resemble one another, so they are exchangeable prompt by prompt rather
than one by one. `grouped_bound` is what is left of the guarantee then. Both guarantees are
averages over calibrating sets; `alarm_range` says how far the one at hand may be from them.
"""

from __future__ import annotations

from math import floor, inf, log

import numpy as np
from jaxtyping import Bool, Float, Float64


def conformal_p_values(
    reference: Float[np.ndarray, " reference"], scores: Float[np.ndarray, "*image"]
) -> Float64[np.ndarray, "*image"]:
    """p-value of each score, in [1 / (1 + references), 1]; small = unlike the references."""
    ranks = np.searchsorted(np.sort(reference), scores, side="right")
    p_values: Float64[np.ndarray, "*image"] = (1.0 + ranks) / (1.0 + len(reference))
    return p_values


def score_threshold(reference: Float[np.ndarray, " reference"], alpha: float) -> float | None:
    """The score below which p ≤ α; None with too few references for that."""
    rank = floor(alpha * (len(reference) + 1) + 1e-12)
    return float(np.sort(reference)[rank - 1]) if rank else None


FAR = 3.0
"""Depth from which an image called unknown is outside the calibrated range (docs/LOG.md)."""


def depths(
    reference: Float[np.ndarray, " reference"], scores: Float[np.ndarray, " image"]
) -> Float64[np.ndarray, " image"]:
    """How far scores lie below the median of the references; the lowest of these has depth 1.

    All are 0 where the references do not differ.
    """
    median, lowest = float(np.median(reference)), float(np.min(reference))
    if median == lowest:
        return np.zeros(len(scores))
    found: Float64[np.ndarray, " image"] = (median - scores.astype(np.float64)) / (median - lowest)
    return found


def outside_limit(reference: Float[np.ndarray, " reference"]) -> float | None:
    """The score of depth `FAR`; None where the references do not differ."""
    median, lowest = float(np.median(reference)), float(np.min(reference))
    return None if median == lowest else median - FAR * (median - lowest)


FULL_LEVEL = 0.5
"""p-value from which a prediction set has the whole level α: the median of exchangeable images."""


def set_levels(
    p_values: Float[np.ndarray, " image"], alpha: float
) -> Float64[np.ndarray, " image"]:
    """Level of the prediction set of each image: α, and less where the image is unlike known ones.

    The guarantee holds for images like the calibrating ones, and the level is never above α. An
    image of another pipeline has a low p-value: its set is wider (docs/LOG.md).

    Args:
        p_values: that each image comes from a known generator.
        alpha: rate at which the right generator may be missing.
    """
    levels: Float64[np.ndarray, " image"] = alpha * np.minimum(p_values / FULL_LEVEL, 1)
    return levels


def prediction_sets(
    reference: Float[np.ndarray, " reference"],
    log_probabilities: Float[np.ndarray, "image class"],
    levels: Float[np.ndarray, " image"],
) -> Bool[np.ndarray, "image class"]:
    """Which generators can't be excluded at the level of each image; a set may hold all, or none.

    Args:
        reference: log probability of the true class of each calibrating image.
        log_probabilities: of all classes, for the images in question.
        levels: rate at which the right generator may be missing, over all generators together.
            For a single generator nothing is guaranteed.
    """
    members: Bool[np.ndarray, "image class"] = (
        conformal_p_values(reference, log_probabilities) > levels[:, None]
    )
    return members


LEAST_RANK = 0.2
"""Fraction of calibrating images at most, by lowest evidence of a known source, whose like is not
named: the names that images of unknown generators get fall by half (docs/LOG.md)."""


def too_weak(
    reference: Float[np.ndarray, " reference"], evidence: Float[np.ndarray, " image"]
) -> Bool[np.ndarray, " image"]:
    """Whether evidence of a known source is too low for a name, however probable.

    Args:
        reference: evidence of the calibrating images.
        evidence: of the images in question.
    """
    found: Bool[np.ndarray, " image"] = conformal_p_values(reference, evidence) <= LEAST_RANK
    return found


LEAST_PROBABILITY = 0.8
"""Least probability of a generator that an image is named after, whatever the threshold."""


def naming_threshold(
    confidence: Float[np.ndarray, " calibrating"],
    right: Bool[np.ndarray, " calibrating"],
    alpha: float,
) -> float:
    """The log probability above which an image is named after its likeliest generator.

    The lowest, but not below `LEAST_PROBABILITY`, at which at most a fraction α of images that are
    exchangeable with the calibrating ones is named wrong on average (conformal risk control:
    Angelopoulos et al., ICLR 2024); infinity with fewer than 1/α - 1 calibrating images.

    Args:
        confidence: log probability of the likeliest generator of each calibrating image.
        right: whether that is its generator.
        alpha: the rate.
    """
    allowed = floor(alpha * (len(confidence) + 1) - 1 + 1e-12)
    if allowed < 0:
        return inf
    wrong = np.sort(confidence[~right])[::-1]
    least = log(LEAST_PROBABILITY)
    return max(float(wrong[allowed]), least) if allowed < len(wrong) else least


def grouped_bound(alpha: float, images: int, groups: int) -> float:
    """Most false alarms at level α if only prompt groups are exchangeable, of equal size m.

    α + (1 − α)(1 − 1/m) / (groups + 1), which is α with one image a group. For a p-value that
    counts each reference by its share in its group, and the new image as a whole group, is
    exact then (Lee, Barber and Willett 2023), and where the plain one is α, that one is this.
    """
    share = groups / images
    return alpha + (1 - alpha) * (1 - share) / (groups + 1)


def alarm_range(alpha: float, images: int, coverage: float = 0.95) -> tuple[float, float]:
    """Where the false-alarm rate lies, given one calibrating set of exchangeable images.

    Over calibrating sets it follows a beta distribution with parameters k and n + 1 − k, where
    k = floor(α (n + 1)) (Vovk 2012), if scores have no ties; with ties it is lower.
    """
    # Importing scipy costs time, and scorers that are exported run without it.
    from scipy.special import betaincinv

    count = floor(alpha * (images + 1) + 1e-12)
    if count == 0:
        return 0.0, 0.0
    tails = ((1 - coverage) / 2, (1 + coverage) / 2)
    low, high = (float(betaincinv(count, images + 1 - count, tail)) for tail in tails)
    return low, high
