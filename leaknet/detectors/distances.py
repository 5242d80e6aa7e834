"""Detectors by distance: Mahalanobis distances, nearest neighbours, nearest prototypes."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
from jaxtyping import Float32, Float64, Int

from leakcache.errors import ScoringError
from leaknet.data.embeddings import Embeddings
from leaknet.detectors.base import ClassScorer, Standardiser, ZScored
from leaknet.metrics import auroc

FLOOR = 1e-3
SHRINKAGE = 0.05


class DiagonalMahalanobis(ZScored, ClassScorer):
    """Nearest class under its own diagonal covariance.

    It is the paper's closed-set score (Eq. 13) with the shrinkage and the floor of the authors'
    code; its maximum over classes is the open-set score.

    `shrinkage` moves each variance of a class towards the median of that class's variances;
    `floor` is the least variance allowed, in z-scored units.
    """

    name: ClassVar[str] = "mahalanobis"
    centres_: Float64[np.ndarray, "class dimension"]
    variances_: Float64[np.ndarray, "class dimension"]

    def __init__(self, shrinkage: float = SHRINKAGE, floor: float = FLOOR) -> None:
        self.shrinkage = shrinkage
        self.floor = floor

    def fit(self, train: Embeddings, val: Embeddings) -> DiagonalMahalanobis:
        """Means and (1/n) variances of each class of `train`; `val` chooses nothing here."""
        vectors, targets = self.fit_z_score(train, val)[0], train.targets
        members = [vectors[targets == c] for c in range(len(train.classes))]
        variances = np.stack([m.var(axis=0) for m in members])
        median = np.median(variances, axis=1, keepdims=True)
        shrunk = (1 - self.shrinkage) * variances + self.shrinkage * median
        self.centres_ = np.stack([m.mean(axis=0) for m in members])
        self.variances_ = np.maximum(shrunk, self.floor)
        return self

    def class_scores(self, e: Embeddings) -> Float64[np.ndarray, "n class"]:
        """Eq. 13: minus the sum over dimensions of (x - mean)² / variance, for each class."""
        x = self.z(e)
        columns = [
            -(np.square(x - centre) / variance).sum(axis=1)
            for centre, variance in zip(self.centres_, self.variances_, strict=True)
        ]
        return np.stack(columns, axis=1)


class TiedMahalanobis(ZScored, ClassScorer):
    """Nearest class under one covariance within the classes, pooled (Lee et al. 2018)."""

    name: ClassVar[str] = "mahalanobis_tied"
    centres_: Float64[np.ndarray, "class dimension"]
    whitener_: Float64[np.ndarray, "dimension dimension"]

    def fit(self, train: Embeddings, val: Embeddings) -> TiedMahalanobis:
        """Class means and the pooled covariance of `train`; `val` chooses nothing here."""
        vectors, targets = self.fit_z_score(train, val)[0], train.targets
        self.centres_ = class_means(vectors, targets, len(train.classes))
        self.whitener_ = whitener(vectors - self.centres_[targets])
        return self

    def class_scores(self, e: Embeddings) -> Float64[np.ndarray, "n class"]:
        """Minus (x - mean)ᵀ Σ⁻¹ (x - mean), for each class."""
        x = self.z(e)
        columns = [-squared_norms((x - centre) @ self.whitener_) for centre in self.centres_]
        return np.stack(columns, axis=1)


class RelativeMahalanobis(TiedMahalanobis):
    """Tied Mahalanobis, less what all known images have in common (Ren et al. 2021).

    The distance to the Gaussian of all training images, classes ignored, is subtracted, so
    that directions which tell no class from another count for nothing.
    """

    name: ClassVar[str] = "mahalanobis_relative"
    background_: Float64[np.ndarray, "dimension dimension"]

    def fit(self, train: Embeddings, val: Embeddings) -> RelativeMahalanobis:
        """Class means, pooled and total covariance of `train`; `val` chooses nothing here."""
        super().fit(train, val)
        # Not by `z`, which requires the whitener that is fitted here.
        vectors = Standardiser(self.mean_, self.scale_)(train.coordinates)
        self.background_ = whitener(vectors)
        return self

    def class_scores(self, e: Embeddings) -> Float64[np.ndarray, "n class"]:
        """Background distance minus class distance, squared, for each class."""
        common = squared_norms(self.z(e) @ self.background_)
        scores: Float64[np.ndarray, "n class"] = common[:, None] + super().class_scores(e)
        return scores


def class_means(
    vectors: Float64[np.ndarray, "n dimension"], targets: Int[np.ndarray, "n"], classes: int
) -> Float64[np.ndarray, "class dimension"]:
    """Mean of each class; every class must have a row."""
    return np.stack([vectors[targets == c].mean(axis=0) for c in range(classes)])


def whitener(
    residuals: Float64[np.ndarray, "n dimension"],
) -> Float64[np.ndarray, "dimension dimension"]:
    """W such that |rW|² = rᵀ Σ⁻¹ r, for the covariance Σ of residuals that have mean 0.

    Σ is shrunk towards a multiple of the identity by Ledoit and Wolf's rule, which reads the
    residuals alone, and its eigenvalues are kept above `FLOOR`, so that it can be inverted
    with fewer images than dimensions.
    """
    # Importing scikit-learn costs a second, which fitted detectors need not pay.
    from sklearn.covariance import ledoit_wolf

    covariance, _ = ledoit_wolf(residuals, assume_centered=True)
    values, directions = np.linalg.eigh(covariance)
    root: Float64[np.ndarray, "dimension dimension"] = directions / np.sqrt(
        np.maximum(values, FLOOR)
    )
    return root


def squared_norms(rows: Float64[np.ndarray, "n dimension"]) -> Float64[np.ndarray, "n"]:
    """Squared Euclidean length of each row."""
    norms: Float64[np.ndarray, "n"] = np.einsum("nd,nd->n", rows, rows)
    return norms


class LikelihoodRatio(ZScored, ClassScorer):
    """Highest log-likelihood ratio (natural log) of one class against the others, pooled.

    Both hypotheses are Gaussians with the covariance Σ within the classes; the mean of the others,
    b, is that of the training images of all other classes. The quadratic terms cancel:
    LLR_c(x) = (μ_c - μ_b)ᵀ Σ⁻¹ (x - (μ_c + μ_b) / 2).
    """

    name: ClassVar[str] = "llr"
    directions_: Float64[np.ndarray, "class dimension"]
    offsets_: Float64[np.ndarray, "class"]

    def fit(self, train: Embeddings, val: Embeddings) -> LikelihoodRatio:
        """Means and pooled covariance of `train`; `val` chooses nothing here.

        Raises ScoringError for a single class, which has no background.
        """
        if len(train.classes) < 2:
            raise ScoringError("a likelihood ratio needs two classes: the run has one")
        vectors, targets = self.fit_z_score(train, val)[0], train.targets
        own = class_means(vectors, targets, len(train.classes))
        others = np.stack([vectors[targets != c].mean(axis=0) for c in range(len(own))])
        w = whitener(vectors - own[targets])
        self.directions_ = (own - others) @ w @ w.T
        self.offsets_ = -np.einsum("kd,kd->k", self.directions_, (own + others) / 2)
        return self

    def class_scores(self, e: Embeddings) -> Float64[np.ndarray, "n class"]:
        """The ratio for each class."""
        x = self.z(e)
        ratios: Float64[np.ndarray, "n class"] = x @ self.directions_.T + self.offsets_
        return ratios


GRID = (1, 2, 5, 10, 20, 50)


class NearestNeighbour(ZScored):
    """Minus the Euclidean distance, in z-scored units, to the k-th nearest training image.

    k is chosen by leaving out one closed class at a time: its validation images play the unknown,
    its training images are withdrawn, and the k of highest mean AUROC wins. The network has seen
    the class that is left out, so that AUROC flatters; it serves to choose k and is not reported.
    """

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


CENTRES = 4


class PrototypeDistance(ZScored, ClassScorer):
    """Minus the squared distance, in z-scored units, to the nearest centre.

    These are k-means centres, not the prototypes that the network learned: those speak through the
    logits (see `leaknet.detectors.base`). Centres need no training, so that a generator enrolled
    later is scored like the others.

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
