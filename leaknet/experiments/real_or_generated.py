"""Real or generated: some of the known classes are photographs rather than generators.

An image is as real as the odds of the real classes say, by the prototype logits. Nothing is
trained for the question, and a real class is never left out as an unknown generator.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from jaxtyping import Bool, Float64
from scipy.special import logsumexp

from leakcache.errors import ScoringError
from leaknet.data.embeddings import Embeddings
from leaknet.evaluation.summary import Measure, Summary, Weights, layout, over_seeds, picked
from leaknet.metrics import roc


@dataclass(frozen=True)
class RealSummary:
    """Real against generated.

    Attributes:
        classes: those marked as real.
        known: auroc, accuracy (odds above even), balanced accuracy, on the test fold.
        unknown: auroc of the real test images against generators never trained on, and the
            fraction of these called generated; empty without an open set.
    """

    classes: tuple[str, ...]
    known: dict[str, Summary]
    unknown: dict[str, Summary]

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        found = {**self.known, **{f"unknown.{name}": one for name, one in self.unknown.items()}}
        return {
            "classes": list(self.classes),
            **layout(partial(picked, found)),
            "seeds": picked(found, lambda summary: list(summary.seeds)),
        }


def check_real(real: Sequence[str], classes: Sequence[str]) -> None:
    """Refuse marks that leave nothing to tell apart.

    Raises:
        ScoringError: a marked class is not known, or all are marked.
    """
    if strange := sorted(set(real) - set(classes)):
        raise ScoringError(f"--real {strange[0]}: take some of {', '.join(classes)}")
    if real and set(real) >= set(classes):
        raise ScoringError("--real marks every class: leave at least one generator unmarked")


def summarise_real(
    tests: Sequence[Embeddings], unknown: Sequence[Embeddings], real: Sequence[str]
) -> RealSummary:
    """Summarise real against generated over seeds.

    Args:
        tests: the test fold under each seed.
        unknown: the unknown generators under each seed; empty without an open set.
        real: classes that are photographs.

    Raises:
        ScoringError: the test fold holds no real or no generated images.
    """
    own = np.isin(tests[0].labels, real)
    if own.all() or not own.any():
        raise ScoringError("the test fold holds no real or no generated images: change the split")
    marked = np.isin(tests[0].classes, real)
    found = over_seeds(
        [_known_measure(_realness(test, marked), own) for test in tests], [tests[0].groups]
    )
    against: dict[str, Summary] = {}
    if unknown:
        measures = [
            _unknown_measure(_realness(test, marked)[own], _realness(other, marked))
            for test, other in zip(tests, unknown, strict=True)
        ]
        against = over_seeds(measures, [tests[0].groups[own], unknown[0].groups])
    return RealSummary(tuple(real), found, against)


def _known_measure(odds: Float64[np.ndarray, "n"], real: Bool[np.ndarray, "n"]) -> Measure[str]:
    right = (odds > 0) == real

    def measure(weights: Sequence[Weights] | None) -> dict[str, np.ndarray]:
        w = np.ones((1, len(odds))) if weights is None else weights[0]
        recall = [(w[:, s] @ right[s]) / w[:, s].sum(axis=1) for s in (real, ~real)]
        return {
            "auroc": roc(odds[real], odds[~real], w[:, real], w[:, ~real]).auroc(),
            "accuracy": (w @ right) / w.sum(axis=1),
            "balanced": np.mean(recall, axis=0),
        }

    return measure


def _unknown_measure(
    real: Float64[np.ndarray, "n"], unknown: Float64[np.ndarray, "k"]
) -> Measure[str]:
    def measure(weights: Sequence[Weights] | None) -> dict[str, np.ndarray]:
        own, other = weights or [np.ones((1, len(part))) for part in (real, unknown)]
        return {
            "auroc": roc(real, unknown, own, other).auroc(),
            "called_generated": (other @ (unknown <= 0)) / other.sum(axis=1),
        }

    return measure


def _realness(e: Embeddings, marked: Bool[np.ndarray, "class"]) -> Float64[np.ndarray, "n"]:
    """Log odds that the image is of a real class, under the softmax of the logits."""
    logits = e.logits.astype(np.float64)
    real, generated = (logsumexp(logits[:, m], axis=1) for m in (marked, ~marked))
    odds: Float64[np.ndarray, "n"] = real - generated
    return odds
