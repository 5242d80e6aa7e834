"""Detectors on logits and evidence; virtual-logit matching."""

from __future__ import annotations

from typing import ClassVar, TypeVar

import numpy as np
from jaxtyping import Float64, Int
from scipy.special import logsumexp

from leakcache.errors import ScoringError
from leaknet.data.embeddings import Embeddings
from leaknet.detectors.base import Detector, ZScored, require_closed

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


class SourceRatio(LogitDetector):
    """Highest log-likelihood ratio of a known source (`leaknet.model.two_covariance`).

    For a model without a two-covariance model it is the highest logit.
    """

    name: ClassVar[str] = "source_ratio"

    def score_samples(self, e: Embeddings) -> Float64[np.ndarray, "n"]:
        """Evidence of each image."""
        logits = self.logits(e)
        return logits.max(axis=1) if e.evidence is None else e.evidence.astype(np.float64)


VARIANCE_KEPT = 0.9


class VirtualLogit(ZScored):
    """Virtual-logit matching (Wang et al. 2022): logsumexp of the logits less the scaled residual.

    The original asks of a linear last layer where its features are centred and by how much the
    residual outside the principal subspace must be scaled to sit among the logits. Prototype logits
    are not linear in the embedding and, being minus a distance, have no natural zero. So here the
    embedding is centred on the training mean (after the global z-score), the principal subspace
    holds 90 % of the training variance, and the residual is scaled to the *spread* of the highest
    logit over the training images, where the original matches their means. A shift of all logits
    then changes nothing but the scores' origin.

    Where the training embeddings leave no residual, the score is the energy alone.
    """

    name: ClassVar[str] = "vim"
    residual_: Float64[np.ndarray, "dimension residual"]
    alpha_: Float64[np.ndarray, ""]

    def fit(self, train: Embeddings, val: Embeddings) -> VirtualLogit:
        """Principal axes and scale of `train`; `val` chooses nothing here."""
        vectors, _ = self.fit_z_score(train, val)
        values, axes = np.linalg.eigh(vectors.T @ vectors)
        kept = np.cumsum(values[::-1]) / values.sum()
        principal = int(np.searchsorted(kept, VARIANCE_KEPT)) + 1
        self.residual_ = axes[:, : len(values) - principal]
        lengths = np.linalg.norm(vectors @ self.residual_, axis=1)
        spread = float(lengths.std())
        highest = train.logits.astype(np.float64).max(axis=1)
        self.alpha_ = np.array(highest.std() / spread if spread > 1e-9 else 0.0)
        return self

    def score_samples(self, e: Embeddings) -> Float64[np.ndarray, "n"]:
        """Energy less alpha times the length outside the principal subspace."""
        lengths = np.linalg.norm(self.z(e) @ self.residual_, axis=1)
        energy = logsumexp(e.logits.astype(np.float64), axis=1)
        score: Float64[np.ndarray, "n"] = energy - self.alpha_ * lengths
        return score
