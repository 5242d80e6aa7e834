"""Log-likelihood ratio of a class against the pooled others, under one full covariance.

Both hypotheses are Gaussians with the covariance Σ within the classes; the background of a
class has the mean of the training images of all other classes. The quadratic terms cancel,

    LLR_c(x) = (μ_c - μ_b)ᵀ Σ⁻¹ (x - (μ_c + μ_b) / 2),

and all of Σ⁻¹ is used, each term once. An image scores the ratio of its best class.
"""

from __future__ import annotations

from typing import ClassVar

import numpy as np
from jaxtyping import Float64

from leakcache.errors import ScoringError
from leaknet.data.embeddings import Embeddings
from leaknet.detectors.base import ClassScorer
from leaknet.detectors.fold_detectors_closed_set import Standardiser, require_closed
from leaknet.detectors.mahalanobis import class_means, whitener


class LikelihoodRatio(ClassScorer):
    """Highest log-likelihood ratio (natural log) of one class against the others."""

    name: ClassVar[str] = "llr"
    mean_: Float64[np.ndarray, "dimension"]
    scale_: Float64[np.ndarray, "dimension"]
    directions_: Float64[np.ndarray, "class dimension"]
    offsets_: Float64[np.ndarray, "class"]

    def fit(self, train: Embeddings, val: Embeddings) -> LikelihoodRatio:
        """Means and pooled covariance of `train`; `val` chooses nothing here.

        Raises ScoringError for a single class, which has no background.
        """
        require_closed(train, val)
        if len(train.classes) < 2:
            raise ScoringError("a likelihood ratio needs two classes: the run has one")
        z = Standardiser.of(train)
        vectors, targets = z(train.vectors), train.targets
        everyone = range(len(train.classes))
        own = class_means(vectors, targets, len(train.classes))
        others = np.stack([vectors[targets != c].mean(axis=0) for c in everyone])
        w = whitener(vectors - own[targets])
        self.mean_, self.scale_ = z.mean, z.scale
        self.directions_ = (own - others) @ w @ w.T
        self.offsets_ = -np.einsum("kd,kd->k", self.directions_, (own + others) / 2)
        return self

    def class_scores(self, e: Embeddings) -> Float64[np.ndarray, "n class"]:
        """The ratio for each class."""
        self.require_fit()
        x = Standardiser(self.mean_, self.scale_)(e.vectors)
        ratios: Float64[np.ndarray, "n class"] = x @ self.directions_.T + self.offsets_
        return ratios

    def score_samples(self, e: Embeddings) -> Float64[np.ndarray, "n"]:
        """The ratio for the best class."""
        best: Float64[np.ndarray, "n"] = self.class_scores(e).max(axis=1)
        return best
