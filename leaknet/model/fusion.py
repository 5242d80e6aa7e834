"""Weights of the branches, fitted to images that none of their fits has seen.

    log p = Σ_b w_b · log softmax(logits_b / T_b) + constant, w_b ≥ 0

T_b is the temperature under which branch b alone is likeliest, w the weights under which both
together are. Prompt groups decide whether a second branch has anything to add: where its gain in
likelihood is not above zero by two standard errors over groups, the best branch stays alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from jaxtyping import Float, Int, Shaped
from scipy.special import log_softmax

from leaknet.calibration.temperature import fit_temperature, log_probabilities

STANDARD_ERRORS = 2.0
"""By so many the gain of a second branch must exceed zero."""


@dataclass(frozen=True)
class Fusion:
    """Fitted weights.

    Attributes:
        weights: w_b over their sum, of calibrated scores.
        temperatures: T_b.
        gain: in mean log-likelihood of an image, over the best branch alone; before the test.
        error: standard error of the gain over prompt groups; infinite with a single one.
        images: held out.
        groups: of these images.
    """

    weights: dict[str, float]
    temperatures: dict[str, float]
    gain: float = 0.0
    error: float = 0.0
    images: int = 0
    groups: int = 0

    @classmethod
    def alone(cls, names: tuple[str, ...], chosen: str) -> Fusion:
        """One branch alone, where nothing can be held out."""
        return cls({n: float(n == chosen) for n in names}, dict.fromkeys(names, 1.0))

    @property
    def coefficients(self) -> dict[str, float]:
        """Factors of uncalibrated logits: exactly 1 for the branch of the largest weight."""
        raw = {name: w / self.temperatures[name] for name, w in self.weights.items()}
        reference = raw[max(self.weights, key=lambda name: self.weights[name])]
        return {name: value / reference for name, value in raw.items()}

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return asdict(self)


def fit_fusion(
    logits: Mapping[str, Float[np.ndarray, "image class"]],
    targets: Int[np.ndarray, " image"],
    groups: Shaped[np.ndarray, " image"],
) -> Fusion:
    """Fit the weights to logits of held-out images.

    Args:
        logits: by branch.
        targets: class numbers.
        groups: prompt group of each image.
    """
    temperatures = {name: fit_temperature(values, targets) for name, values in logits.items()}
    scores = [log_probabilities(values, temperatures[name]) for name, values in logits.items()]
    alone = [_likelihoods(np.array([1.0]), [score], targets) for score in scores]
    best = int(np.argmax([values.mean() for values in alone]))
    start = np.eye(len(scores))[best]
    # Importing scipy.optimize costs a quarter of a second, which scoring need not pay.
    from scipy.optimize import minimize

    found = minimize(
        lambda w: -float(_likelihoods(w, scores, targets).mean()),
        start,
        method="L-BFGS-B",
        bounds=[(0, None)] * len(scores),
    ).x
    gains = _likelihoods(found, scores, targets) - alone[best]
    totals = np.bincount(np.unique(groups, return_inverse=True)[1], gains)
    spread = float(totals.std(ddof=1)) if len(totals) > 1 else np.inf
    error = spread * float(np.sqrt(len(totals))) / len(gains)
    kept = found if gains.mean() > STANDARD_ERRORS * error else start
    weights = dict(zip(logits, (kept / kept.sum()).tolist(), strict=True))
    return Fusion(weights, temperatures, float(gains.mean()), error, len(gains), len(totals))


def _likelihoods(
    weights: Float[np.ndarray, " branch"],
    scores: list[Float[np.ndarray, "image class"]],
    targets: Int[np.ndarray, " image"],
) -> Float[np.ndarray, " image"]:
    """Log-likelihood of each image's class."""
    total = sum(w * score for w, score in zip(weights, scores, strict=True))
    found: np.ndarray = log_softmax(total, axis=1)[np.arange(len(targets)), targets]
    return found
