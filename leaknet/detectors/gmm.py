"""A mixture of diagonal Gaussians for each class; an image scores its likeliest class.

All classes have the same number J of components, that of 2, 3, 4 and 6 (the authors' grid)
under which validation images of the same class are likeliest. A J needs two training images
per component in the smallest class; where none has them, J is 1.
"""

from __future__ import annotations

import warnings
from typing import Any, ClassVar

import numpy as np
from jaxtyping import Float64
from scipy.special import logsumexp

from leaknet.data.embeddings import Embeddings
from leaknet.detectors.base import ClassScorer, ZScored, class_counts
from leaknet.detectors.mahalanobis import FLOOR

GRID = (2, 3, 4, 6)


class ClassMixture(ZScored, ClassScorer):
    """Highest log-density of one class's mixture, in z-scored units."""

    name: ClassVar[str] = "gmm"
    weights_: Float64[np.ndarray, "class component"]
    centres_: Float64[np.ndarray, "class component dimension"]
    variances_: Float64[np.ndarray, "class component dimension"]

    def fit(self, train: Embeddings, val: Embeddings) -> ClassMixture:
        """Fit each class of `train` for each J, seeded; choose J on `val`."""
        vectors, held_out = self.fit_z_score(train, val)
        smallest = int(class_counts(train).min())
        best = -np.inf
        for components in [j for j in GRID if 2 * j <= smallest] or [1]:
            mixtures = _mixtures(vectors, train, components)
            likelihood = _own_class_likelihood(mixtures, held_out, val)
            if likelihood > best:
                best = likelihood
                self._keep(mixtures)
        return self

    def class_scores(self, e: Embeddings) -> Float64[np.ndarray, "n class"]:
        """Log-density of each image under each class's mixture."""
        x = self.z(e)
        mixtures = zip(self.weights_, self.centres_, self.variances_, strict=True)
        return np.stack([_log_density(x, *mixture) for mixture in mixtures], axis=1)

    def _keep(self, mixtures: list[Any]) -> None:
        self.weights_ = np.stack([m.weights_ for m in mixtures])
        self.centres_ = np.stack([m.means_ for m in mixtures])
        self.variances_ = np.stack([m.covariances_ for m in mixtures])


def _mixtures(
    vectors: Float64[np.ndarray, "n dimension"], train: Embeddings, components: int
) -> list[Any]:
    # Importing scikit-learn costs a second, which fitted detectors need not pay.
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.mixture import GaussianMixture

    with warnings.catch_warnings():
        # A mixture that has not converged is a density too; `val` decides.
        warnings.simplefilter("ignore", ConvergenceWarning)
        return [
            GaussianMixture(
                components, covariance_type="diag", reg_covar=FLOOR, random_state=0
            ).fit(vectors[train.targets == c])
            for c in range(len(train.classes))
        ]


def _own_class_likelihood(
    mixtures: list[Any], vectors: Float64[np.ndarray, "n dimension"], val: Embeddings
) -> float:
    return sum(
        float(mixtures[c].score_samples(vectors[val.targets == c]).sum())
        for c in np.unique(val.targets)
    )


def _log_density(
    x: Float64[np.ndarray, "n dimension"],
    weights: Float64[np.ndarray, "component"],
    centres: Float64[np.ndarray, "component dimension"],
    variances: Float64[np.ndarray, "component dimension"],
) -> Float64[np.ndarray, "n"]:
    constants = np.log(weights) - np.log(2 * np.pi * variances).sum(axis=1) / 2
    exponents = [
        -(np.square(x - centre) / variance).sum(axis=1) / 2
        for centre, variance in zip(centres, variances, strict=True)
    ]
    return np.asarray(logsumexp(np.stack(exponents, axis=1) + constants, axis=1))
