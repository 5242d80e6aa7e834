"""Class scores from the class outputs of several fits, and weights of the branches.

Both are fitted to outputs that fits without an image's prompt group give. Weights of branches:

    log p = Σ_b w_b · log softmax(logits_b / T_b) + constant, w_b ≥ 0

T_b is the temperature under which branch b alone is likeliest, w the weights under which both
together are. Prompt groups decide whether a second branch has anything to add: where its gain in
likelihood is not above zero by two standard errors over groups, the best branch stays alone.

Class scores, by regularised logistic regression:

    scores = Σ_b (s_b - mean of s_b over the classes) M_b + bias

The penalty λ (Σ_b |M_b - M⁰_b|² + |bias|²) pulls it towards the calibrated sum of the outputs:
M⁰_b = I w_b, with the weights of above and one temperature. What the regression adds to the sum is
which classes are confused with which: the more classes, the more that is (docs/LOG.md).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from jaxtyping import Float, Float64, Int, Shaped
from scipy.special import log_softmax

from leaknet.calibration.temperature import fit_temperature, log_probabilities
from leaknet.model.two_covariance import group_folds

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


STRENGTH = 0.03
"""λ, beside the mean cross-entropy of images in nats: best among .001 to .3 on prompts left out,
with 8 classes and with 48 (docs/LOG.md). Cross-validation within the training prompts takes too
large a λ, as its fits have fewer prompts."""
FOLDS = 8
"""Folds of prompt groups for the held-out scores."""
MAX_ITERATIONS = 200

Outputs = Mapping[str, Float64[np.ndarray, "image class"]]


@dataclass(frozen=True)
class ScoreMap:
    """A fitted map.

    Attributes:
        weights: M of each fit, from its outputs less their mean over the classes.
        bias: of the scores.
        held_out: scores of the images, each by a map without its prompt group.
        temperatures: under which the outputs of each fit alone are likeliest.
    """

    weights: dict[str, Float64[np.ndarray, "class class"]]
    bias: Float64[np.ndarray, " class"]
    held_out: Float64[np.ndarray, "image class"]
    temperatures: dict[str, float]


def fit_score_map(
    outputs: Outputs, targets: Int[np.ndarray, " image"], groups: Shaped[np.ndarray, " image"]
) -> ScoreMap:
    """Fit; with a single prompt group the scores are the calibrated sum.

    Args:
        outputs: of each fit, for images that it has not seen.
        targets: class numbers.
        groups: prompt group of each image.
    """
    fusion = fit_fusion(outputs, targets, groups)
    inputs = np.hstack([_centred(s) / fusion.temperatures[name] for name, s in outputs.items()])
    start = _weighted_sum(inputs, fusion.weights, targets)
    weight, held_out = start, _apply(start, inputs)
    folds = group_folds(groups, FOLDS).numpy()
    if folds.max() > 0:
        weight = _regress(inputs, targets, start)
        for fold in range(int(folds.max()) + 1):
            own = folds == fold
            held_out[own] = _apply(_regress(inputs[~own], targets[~own], start), inputs[own])
    blocks = zip(outputs, np.split(weight[:-1], len(outputs)), strict=True)
    weights = {name: block / fusion.temperatures[name] for name, block in blocks}
    return ScoreMap(weights, weight[-1], held_out, fusion.temperatures)


def _weighted_sum(
    inputs: Float64[np.ndarray, "image value"],
    weights: Mapping[str, float],
    targets: Int[np.ndarray, " image"],
) -> Float64[np.ndarray, "weight class"]:
    """M⁰ of all fits, for outputs over their temperatures, and a bias of 0 in the last row."""
    classes = inputs.shape[1] // len(weights)
    blocks = [factor * np.eye(classes) for factor in weights.values()]
    weight = np.vstack([*blocks, np.zeros((1, classes))])
    scaled: np.ndarray = weight / fit_temperature(_apply(weight, inputs), targets)
    return scaled


def _regress(
    inputs: Float64[np.ndarray, "image value"],
    targets: Int[np.ndarray, " image"],
    start: Float64[np.ndarray, "weight class"],
) -> Float64[np.ndarray, "weight class"]:
    """Minimise mean cross-entropy + λ · |weight - start|²; convex."""
    # Importing scipy.optimize costs a quarter of a second, which scoring need not pay.
    from scipy.optimize import minimize

    wanted = np.eye(start.shape[1])[targets]

    def objective(flat: np.ndarray) -> tuple[float, np.ndarray]:
        weight = flat.reshape(start.shape)
        logs = log_softmax(_apply(weight, inputs), axis=1)
        residual = (np.exp(logs) - wanted) / len(targets)
        change = weight - start
        gradient = np.vstack([inputs.T @ residual, residual.sum(axis=0)]) + 2 * STRENGTH * change
        loss = -(logs * wanted).sum() / len(targets) + STRENGTH * np.square(change).sum()
        return float(loss), gradient.ravel()

    options = {"maxiter": MAX_ITERATIONS}
    found = minimize(objective, start.ravel(), jac=True, method="L-BFGS-B", options=options)
    weight: np.ndarray = found.x.reshape(start.shape)
    return weight


def _apply(
    weight: Float64[np.ndarray, "weight class"], inputs: Float64[np.ndarray, "image value"]
) -> Float64[np.ndarray, "image class"]:
    scores: np.ndarray = inputs @ weight[:-1] + weight[-1]
    return scores


def _centred(values: Float64[np.ndarray, "image class"]) -> Float64[np.ndarray, "image class"]:
    centred: np.ndarray = values - values.mean(axis=1, keepdims=True)
    return centred
