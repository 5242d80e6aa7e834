"""How good are likelihood ratios? Cllr, and the least that their order allows (Brümmer 2006).

Cllr is the cost, in bits, of believing the ratios at even prior odds: 0 for an oracle, 1 for a
system that always says 1, more for one that misleads. Its minimum is what the best monotone
recalibration of the same ratios would cost; it measures discrimination alone, and the rest of
Cllr is the price of bad calibration.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Bool, Float, Float64
from sklearn.isotonic import IsotonicRegression

from leakcache.errors import ScoringError


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
    even = np.where(own, 0.5 / own.sum(), 0.5 / (~own).sum())
    share = IsotonicRegression().fit(scores, own, sample_weight=even).predict(scores)
    with np.errstate(divide="ignore"):
        odds: Float64[np.ndarray, " image"] = np.log10(share) - np.log10(1 - share)
    return odds


def _require_both(own: Bool[np.ndarray, " image"]) -> None:
    if own.all() or not own.any():
        raise ScoringError(
            "a likelihood ratio is judged on images of its generator and on others: "
            f"there are {own.sum()} and {(~own).sum()}"
        )
