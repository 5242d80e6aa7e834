"""Virtual-logit matching (Wang et al. 2022), adapted to prototype logits.

The original asks of a linear last layer where its features are centred and by how much the
residual outside the principal subspace must be scaled to sit among the logits. Prototype logits
are not linear in the embedding and, being minus a distance, have no natural zero. So here the
embedding is centred on the training mean (after the global z-score), the principal subspace
holds 90 % of the training variance, and the residual is scaled to the *spread* of the highest
logit over the training images, where the original matches their means. A shift of all logits
then changes nothing but the scores' origin.
"""

from __future__ import annotations

from typing import ClassVar

import numpy as np
from jaxtyping import Float64
from scipy.special import logsumexp

from leaknet.data.embeddings import Embeddings
from leaknet.detectors.base import ZScored

VARIANCE_KEPT = 0.9


class VirtualLogit(ZScored):
    """Logsumexp of the logits less the scaled length of the residual.

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
