"""Distance to the nearest of a few centres per class, found on the frozen embedding.

These are k-means centres, not the prototypes that the network learned: those speak through the
logits (see `leaknet.detectors.logits`). Centres need no training, so that a generator enrolled
later is scored like the others.
"""

from __future__ import annotations

from typing import ClassVar

import numpy as np
from jaxtyping import Float64, Int

from leaknet.data.embeddings import Embeddings
from leaknet.detectors.base import ClassScorer, ZScored
from leaknet.detectors.mahalanobis import squared_norms

CENTRES = 4


class PrototypeDistance(ZScored, ClassScorer):
    """Minus the squared distance, in z-scored units, to the nearest centre.

    Every class has 4 centres (the paper's M), or as many as it has different training
    embeddings where those are fewer.
    """

    name: ClassVar[str] = "prototype"
    centres_: Float64[np.ndarray, "centre dimension"]
    owners_: Int[np.ndarray, "centre"]

    def fit(self, train: Embeddings, val: Embeddings) -> PrototypeDistance:
        """k-means within each class of `train`, seeded; `val` chooses nothing here."""
        vectors, targets = self.fit_z_score(train, val)[0], train.targets
        found = [class_centres(vectors[targets == c]) for c in range(len(train.classes))]
        self.centres_ = np.concatenate(found)
        self.owners_ = np.repeat(np.arange(len(found)), [len(centres) for centres in found])
        return self

    def class_scores(self, e: Embeddings) -> Float64[np.ndarray, "n class"]:
        """Minus the squared distance to the nearest centre of each class."""
        x = self.z(e)
        scores = np.full((len(x), int(self.owners_.max()) + 1), -np.inf)
        for centre, owner in zip(self.centres_, self.owners_, strict=True):
            np.maximum(scores[:, owner], -squared_norms(x - centre), out=scores[:, owner])
        return scores


def class_centres(
    members: Float64[np.ndarray, "n dimension"],
) -> Float64[np.ndarray, "centre dimension"]:
    """Up to 4 centres of one class's embeddings."""
    # Importing scikit-learn costs a second, which fitted detectors need not pay.
    from sklearn.cluster import KMeans

    distinct = len(np.unique(members, axis=0))
    means = KMeans(min(CENTRES, distinct), n_init=4, random_state=0).fit(members)
    return np.asarray(means.cluster_centers_)
