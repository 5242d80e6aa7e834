"""One temperature for all logits, so that 80 % sure means right four times in five.

Dividing the logits by T > 0 changes no ranking, hence no attribution (Guo et al. 2017).
"""

from __future__ import annotations

from math import exp, log

import numpy as np
from jaxtyping import Float, Float64, Int
from scipy.special import log_softmax

from leakcache.errors import ScoringError

# Logits that part the classes without an error are likeliest at T = 0, useless ones at infinity.
MIN_TEMPERATURE, MAX_TEMPERATURE = 1e-3, 1e4
TIE = 1e-9
"""Nats by which a temperature e times as large may be less likely and still be preferred."""


def fit_temperature(
    logits: Float[np.ndarray, "image class"], targets: Int[np.ndarray, " image"]
) -> float:
    """The T within [0.001, 10,000] under which the true classes are likeliest.

    Raises:
        ScoringError: there are no images.
    """
    if not len(logits):
        raise ScoringError("there are no validation images to choose a temperature on")

    def loss(log_t: float) -> float:
        return negative_log_likelihood(logits, targets, exp(log_t)) - TIE * log_t

    # The likelihood is concave in 1/T, so that one interval holds one optimum.
    # Importing scipy.optimize costs a quarter of a second, which scoring need not pay.
    from scipy.optimize import minimize_scalar

    found = minimize_scalar(
        loss,
        bounds=(log(MIN_TEMPERATURE), log(MAX_TEMPERATURE)),
        method="bounded",
        options={"xatol": 1e-6},
    )
    return exp(float(found.x))


def negative_log_likelihood(
    logits: Float[np.ndarray, "image class"],
    targets: Int[np.ndarray, " image"],
    temperature: float,
) -> float:
    """Mean over images of -log P(true class), in nats."""
    chosen = log_probabilities(logits, temperature)[np.arange(len(targets)), targets]
    return -float(chosen.mean())


def log_probabilities(
    logits: Float[np.ndarray, "image class"], temperature: float
) -> Float64[np.ndarray, "image class"]:
    """Natural log of softmax(logits / T), in float64, where near-certain images stay apart."""
    return np.asarray(log_softmax(logits.astype(np.float64) / temperature, axis=1))
