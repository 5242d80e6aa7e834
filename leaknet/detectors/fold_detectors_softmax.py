"""Highest softmax probability of the logits (Hendrycks and Gimpel 2017), as its logarithm."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
from jaxtyping import Float64

from leaknet.data.embeddings import Embeddings
from leaknet.detectors.logits import LogitDetector


class MaxSoftmax(LogitDetector):
    """Log of the highest class probability, at most 0.

    The logarithm ranks images as the probability does and keeps apart those whose probability
    rounds to 1.
    """

    name: ClassVar[str] = "softmax"

    def score_samples(self, e: Embeddings) -> Float64[np.ndarray, "n"]:
        """-log(1 + sum over the other classes of exp(logit - highest logit))."""
        ordered = np.sort(self.logits(e), axis=1)
        rivals = np.exp(ordered[:, :-1] - ordered[:, -1:]).sum(axis=1)
        score: Float64[np.ndarray, "n"] = -np.log1p(rivals)
        return score
