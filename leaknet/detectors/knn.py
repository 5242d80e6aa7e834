"""Distance to the k-th nearest known embedding (Sun et al. 2022).

k is chosen by leaving out one closed class at a time: its validation images play the unknown,
its training images are withdrawn, and the k of highest mean AUROC wins. The network has seen
the class that is left out, so that AUROC flatters; it serves to choose k and is not reported.
"""

from __future__ import annotations

from typing import ClassVar

import numpy as np
from jaxtyping import Float32, Float64, Int

from leaknet.data.embeddings import Embeddings
from leaknet.detectors.base import ZScored
from leaknet.metrics import auroc

GRID = (1, 2, 5, 10, 20, 50)


class NearestNeighbour(ZScored):
    """Minus the Euclidean distance, in z-scored units, to the k-th nearest training image."""

    name: ClassVar[str] = "knn"
    k_: Int[np.ndarray, ""]
    references_: Float32[np.ndarray, "reference dimension"]

    def fit(self, train: Embeddings, val: Embeddings) -> NearestNeighbour:
        """Keep the training embeddings; choose k on the closed classes, left out in turn."""
        references, queries = self.fit_z_score(train, val)
        self.k_ = np.array(choose_k(references, train.targets, queries, val.targets))
        self.references_ = train.coordinates
        return self

    def score_samples(self, e: Embeddings) -> Float64[np.ndarray, "n"]:
        """Minus the distance to the k-th nearest."""
        queries = self.z(e)
        return -neighbour_distances(queries, self.standardise(self.references_), int(self.k_))[
            :, -1
        ]


def choose_k(
    references: Float64[np.ndarray, "reference dimension"],
    reference_targets: Int[np.ndarray, "reference"],
    queries: Float64[np.ndarray, "query dimension"],
    query_targets: Int[np.ndarray, "query"],
) -> int:
    """The k of highest mean AUROC with each class left out; the least of several, 1 of none."""
    left_out = [c for c in np.unique(query_targets) if not (query_targets == c).all()]
    remaining = [int((reference_targets != c).sum()) for c in left_out]
    grid = [k for k in GRID if k <= min(remaining, default=1)]
    totals = np.zeros(len(grid))
    for c in left_out:
        known = query_targets != c
        scores = -neighbour_distances(queries, references[reference_targets != c], grid[-1])
        totals += [auroc(scores[known, k - 1], scores[~known, k - 1]) for k in grid]
    return grid[int(totals.argmax())]


def neighbour_distances(
    queries: Float64[np.ndarray, "query dimension"],
    references: Float64[np.ndarray, "reference dimension"],
    k: int,
) -> Float64[np.ndarray, "query k"]:
    """Distances to the k nearest references, nearest first."""
    if not len(queries):
        return np.empty((0, k))
    # Importing scikit-learn costs a second, which other detectors need not pay.
    from sklearn.neighbors import NearestNeighbors

    index = NearestNeighbors(n_neighbors=k, algorithm="brute").fit(references)
    distances, _ = index.kneighbors(queries)
    return np.asarray(distances)
