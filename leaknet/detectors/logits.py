"""Detectors on the logits alone; `fit` keeps the number of classes."""

from __future__ import annotations

from typing import ClassVar, TypeVar

import numpy as np
from jaxtyping import Float64, Int
from scipy.special import logsumexp

from leakcache.errors import ScoringError
from leaknet.data.embeddings import Embeddings
from leaknet.detectors.base import Detector, require_closed

_D = TypeVar("_D", bound="LogitDetector")


class LogitDetector(Detector):
    """A function of the prototype logits of each image."""

    classes_: Int[np.ndarray, ""]

    def fit(self: _D, train: Embeddings, val: Embeddings) -> _D:
        """Keep the number of classes."""
        require_closed(train, val)
        self.classes_ = np.array(len(train.classes))
        return self

    def logits(self, e: Embeddings) -> Float64[np.ndarray, "n class"]:
        """The logits in float64; ScoringError for embeddings of a run with other classes."""
        self.require_fit()
        if e.logits.shape[1] != self.classes_:
            raise ScoringError(
                f"the detector {self.name} knows {self.classes_} classes but the embeddings "
                f"have {e.logits.shape[1]}: score with the run that made them"
            )
        return e.logits.astype(np.float64)


class MaxLogit(LogitDetector):
    """The highest prototype logit (Hendrycks et al. 2022).

    With this network it is minus the (soft) gated distance to the nearest of the *learned*
    prototypes, so it is also the paper's prototype distance, up to sign.
    """

    name: ClassVar[str] = "logit"

    def score_samples(self, e: Embeddings) -> Float64[np.ndarray, "n"]:
        """The highest logit of each image."""
        highest: Float64[np.ndarray, "n"] = self.logits(e).max(axis=1)
        return highest


class Energy(LogitDetector):
    """Logsumexp of the logits at temperature 1: minus the free energy (Liu et al. 2020)."""

    name: ClassVar[str] = "energy"

    def score_samples(self, e: Embeddings) -> Float64[np.ndarray, "n"]:
        """Log of the sum over classes of exp(logit)."""
        return np.asarray(logsumexp(self.logits(e), axis=1))


class MaxSoftmax(LogitDetector):
    """Log of the highest class probability, at most 0 (Hendrycks and Gimpel 2017).

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
