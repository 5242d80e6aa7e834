"""Likelihood ratios: how much more probable is this score if X made the image?

The alternative is that another *known* generator made it, each as likely as any other; a ratio
says nothing of generators that were never seen. For each class the log odds that the network
gives it become a ratio by logistic regression on validation images at even prior odds, with
slope 0 or more. To each side scores of the other side of the weight of one image are added
(Morrison and Poh 2018), so that classes that validation parts without an error do not get
infinite ratios.

A ratio is cut where the validation images stop supporting it: at the largest prior odds against
it at which believing the ratios still costs less than ignoring them, were one more image on
each side misleading (after the ELUB of Vergeer et al. 2016). With n images of other generators
it can't exceed n + 1.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Float64, Int
from scipy.special import expit

from leakcache.errors import ScoringError
from leaknet.metrics.values import log_odds

_GRID = np.arange(0.0, 8.0, 0.01)  # log10 of prior odds
_LN10 = float(np.log(10))


@dataclass(frozen=True)
class ClassRatios:
    """log10 LR of class c = offset + slope · (log odds of c), kept within [low, high].

    All four have one entry per class, in units of log10; NaN for a class without validation
    images.
    """

    slope: Float64[np.ndarray, " class"]
    offset: Float64[np.ndarray, " class"]
    low: Float64[np.ndarray, " class"]
    high: Float64[np.ndarray, " class"]

    @classmethod
    def fit(
        cls, logits: Float[np.ndarray, "image class"], targets: Int[np.ndarray, " image"]
    ) -> ClassRatios:
        """Fit each class to closed images of the validation fold."""
        columns = [
            _fit_class(odds, targets == c, _even_weights(targets, c))
            for c, odds in enumerate(log_odds(logits).T)
        ]
        return cls(*(np.array(column) for column in zip(*columns, strict=True)))

    def log10(self, logits: Float[np.ndarray, "image class"]) -> Float64[np.ndarray, "image class"]:
        """log10 of each image's ratio for each class."""
        return np.asarray(np.clip(self.unbounded(logits), self.low, self.high))

    def unbounded(
        self, logits: Float[np.ndarray, "image class"]
    ) -> Float64[np.ndarray, "image class"]:
        """The same before it is cut where the evidence ends."""
        ratios: Float64[np.ndarray, "image class"] = self.offset + self.slope * log_odds(logits)
        return ratios


def supported_range(
    log10_ratios: Float[np.ndarray, " image"],
    own: Bool[np.ndarray, " image"],
    independent: int | None = None,
) -> tuple[float, float]:
    """Least and greatest log10 LR that so many images can support; both 0 for useless ratios.

    Args:
        log10_ratios: of each image.
        own: for which the proposition holds.
        independent: how many of the others are independent; all of them by default.
    """
    high = _support(log10_ratios[own], log10_ratios[~own], independent)
    low = _support(-log10_ratios[~own], -log10_ratios[own], independent)
    return 0.0 - low, high


def _support(
    own: Float[np.ndarray, "_"], other: Float[np.ndarray, "_"], independent: int | None
) -> float:
    """Largest log10 prior odds at which the ratios are still worth heeding, all less included."""
    # At odds of 1 to t, "never" costs 1 image of the own side missed; heeding costs those below
    # t and t times the share of the others above it.
    count = min(len(other), independent or len(other))
    missed = np.searchsorted(np.sort(own), _GRID) / len(own)
    above = len(other) - np.searchsorted(np.sort(other), _GRID)
    misled = (above * count / len(other) + 1) / (count + 1)
    worth = missed + misled * 10**_GRID <= 1
    return float(_GRID[worth.argmin() - 1]) if worth[0] else 0.0


def _fit_class(
    odds: Float[np.ndarray, " image"],
    own: Bool[np.ndarray, " image"],
    weights: Float[np.ndarray, " image"],
) -> tuple[float, float, float, float]:
    if own.all() or not own.any():
        return (np.nan,) * 4
    slope, offset = fit_logistic(odds, own, weights)
    low, high = supported_range(offset + slope * odds, own)
    return slope, offset, low, high


def _even_weights(targets: Int[np.ndarray, " image"], c: int) -> Float64[np.ndarray, " image"]:
    """Weights under which each side has as many images as c, and the other classes share theirs."""
    counts = np.bincount(targets)
    others = (counts > 0).sum() - 1
    weight: Float64[np.ndarray, " image"] = counts[c] / (max(others, 1) * counts[targets])
    return np.where(targets == c, 1.0, weight)


def fit_logistic(
    odds: Float[np.ndarray, " image"],
    own: Bool[np.ndarray, " image"],
    weights: Float[np.ndarray, " image"],
) -> tuple[float, float]:
    """Slope and offset, in log10, of the most likely log LR that is linear in the log odds."""
    scale = max(float(odds.std()), 1e-12)
    x = (odds - odds.mean()) / scale
    one_image = weights / weights[own].sum()
    x, side = np.tile(x, 2), np.concatenate([own, ~own])
    weight = np.concatenate([weights, one_image])

    def loss(parameters: np.ndarray) -> tuple[float, np.ndarray]:
        slope, offset = parameters
        margin = np.where(side, 1, -1) * (slope * x + offset)
        pull = -weight * np.where(side, 1, -1) * expit(-margin)
        return float(weight @ np.logaddexp(0, -margin)), np.array([pull @ x, pull.sum()])

    # Importing scipy.optimize costs a quarter of a second, which scoring need not pay.
    from scipy.optimize import minimize

    found = minimize(
        loss, np.zeros(2), jac=True, method="L-BFGS-B", bounds=[(0, None), (None, None)]
    )
    slope, offset = (float(value) for value in found.x)
    return slope / scale / _LN10, (offset - slope * float(odds.mean()) / scale) / _LN10


# How good are likelihood ratios? Cllr, and the least that their order allows (Brümmer 2006).
#
# Cllr is the cost, in bits, of believing the ratios at even prior odds: 0 for an oracle, 1 for a
# system that always says 1, more for one that misleads. Its minimum is what the best monotone
# recalibration of the same ratios would cost; it measures discrimination alone, and the rest of
# Cllr is the price of bad calibration.


def cllr(log10_ratios: Float[np.ndarray, " image"], own: Bool[np.ndarray, " image"]) -> float:
    """Cllr in bits of ratios for a proposition that holds for the images marked `own`.

    Raises:
        ScoringError: there are no images for which it holds, or none for which it doesn't.
    """
    _require_both(own)
    bits = log10_ratios.astype(np.float64) / np.log10(2)
    missed = np.logaddexp2(0, -bits[own]).mean()
    misled = np.logaddexp2(0, bits[~own]).mean()
    return float(missed + misled) / 2


def min_cllr(scores: Float[np.ndarray, " image"], own: Bool[np.ndarray, " image"]) -> float:
    """Cllr after the best monotone map of the scores, found by pooling adjacent violators.

    Raises ScoringError as `cllr`.
    """
    _require_both(own)
    return cllr(pav_log10_ratios(scores, own), own)


def pav_log10_ratios(
    scores: Float[np.ndarray, " image"], own: Bool[np.ndarray, " image"]
) -> Float64[np.ndarray, " image"]:
    """log10 of the ratios that are best on these very images; infinite at the ends."""
    # Importing scikit-learn costs a second, which scoring need not pay.
    from sklearn.isotonic import IsotonicRegression

    even = np.where(own, 0.5 / own.sum(), 0.5 / (~own).sum())
    share = IsotonicRegression().fit(scores, own, sample_weight=even).predict(scores)
    with np.errstate(divide="ignore"):
        odds: Float64[np.ndarray, " image"] = np.log10(share) - np.log10(1 - share)
    return odds


def _require_both(own: Bool[np.ndarray, " image"]) -> None:
    if own.all() or not own.any():
        raise ScoringError(
            "a likelihood ratio is evaluated on images of its generator and on others: "
            f"there are {own.sum()} and {(~own).sum()}"
        )
