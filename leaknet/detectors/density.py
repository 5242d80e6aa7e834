"""Detectors by density: kernel density estimates, and mixtures of Gaussians for each class."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from math import log, pi
from typing import Any, ClassVar

import numpy as np
import torch
from jaxtyping import Float, Float32, Float64, Int
from scipy.special import logsumexp
from torch import Tensor

from leaknet.data.embeddings import Embeddings
from leaknet.detectors.base import ClassScorer, ZScored, class_counts
from leaknet.detectors.distances import FLOOR

# Distances come from one matrix product per block: with both sides centred on the references and
# divided by the bandwidth, -|x - y|²/2 = x·y - |y|²/2 - |x|²/2. float32 would not do: at 128
# dimensions and a bandwidth of 0.1 it errs in the second decimal. Each thread computes its own
# queries, one block at a time in one buffer; splitting a small product over threads is slower.

QUERY_BLOCK = 128
REFERENCE_BLOCK = 2048


def log_density(
    queries: Float64[np.ndarray, "query dimension"],
    references: Float64[np.ndarray, "reference dimension"],
    bandwidth: float,
) -> Float64[np.ndarray, "query"]:
    """Natural log of the mean over references of N(query; reference, bandwidth² I)."""
    centre = references.mean(axis=0)
    x = torch.from_numpy((queries - centre) / bandwidth)
    y = torch.from_numpy((references - centre) / bandwidth)
    half_norms = y.square().sum(dim=1) / 2
    sums = x.new_empty(len(x))
    with _single_threaded_products() as threads, ThreadPoolExecutor(threads) as pool:
        parts = zip(x.tensor_split(threads), sums.tensor_split(threads), strict=True)
        for done in [pool.submit(_log_sums, part, y, half_norms, out) for part, out in parts]:
            done.result()
    dimension = references.shape[1]
    constant = log(len(references)) + dimension * (log(bandwidth) + log(2 * pi) / 2)
    density: Float64[np.ndarray, "query"] = sums.numpy() - constant
    return density


def _log_sums(
    x: Float[Tensor, "query dimension"],
    y: Float[Tensor, "reference dimension"],
    half_norms: Float[Tensor, "reference"],
    out: Float[Tensor, "query"],
) -> None:
    """Log of the sum over references of exp(-|x - y|²/2), written to `out`."""
    buffer = x.new_empty(QUERY_BLOCK * REFERENCE_BLOCK)
    for start in range(0, len(x), QUERY_BLOCK):
        block = x[start : start + QUERY_BLOCK]
        highest = x.new_full((len(block),), -torch.inf)
        total = torch.zeros_like(highest)
        for first in range(0, len(y), REFERENCE_BLOCK):
            near = y[first : first + REFERENCE_BLOCK]
            exponents = buffer[: len(block) * len(near)].view(len(block), len(near))
            torch.addmm(
                half_norms[first : first + len(near)], block, near.T, beta=-1, out=exponents
            )
            top = torch.maximum(highest, exponents.amax(dim=1))
            inside = exponents.sub_(top[:, None]).exp_().sum(dim=1)
            total = total * (highest - top).exp_() + inside
            highest = top
        out[start : start + len(block)] = highest + total.log() - block.square().sum(dim=1) / 2


@contextmanager
def _single_threaded_products() -> Iterator[int]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield threads
    finally:
        torch.set_num_threads(threads)


GRID = (0.1, 0.2, 0.3, 0.4, 0.6, 0.8, 1.0)
# Below, no image is like another; above, all references are one.
MIN_BANDWIDTH, MAX_BANDWIDTH = 1e-3, 1e2


class GlobalKDE(ZScored):
    """Gaussian kernel density of the known embeddings: the paper's open-set score (section 6).

    `GlobalKDE` scores an image by the log-density of all closed training embeddings together,
    `ClassKDE` by the highest log-density of one class. Both see embeddings after a global z-score
    and share one bandwidth, the one under which closed *validation* images are likeliest. Where the
    best value lies at an end of the grid, the grid is extended by its own last ratio until it does
    not.
    """

    name: ClassVar[str] = "kde"
    bandwidth_: Float64[np.ndarray, ""]
    references_: Float32[np.ndarray, "reference dimension"]

    def fit(self, train: Embeddings, val: Embeddings) -> GlobalKDE:
        """Keep the training embeddings; choose the bandwidth on the validation ones."""
        references, held_out = self.fit_z_score(train, val)
        best = choose_bandwidth(lambda h: float(log_density(held_out, references, h).mean()))
        self.bandwidth_ = np.array(best)
        self.references_ = train.coordinates
        return self

    def score_samples(self, e: Embeddings) -> Float64[np.ndarray, "n"]:
        """Log-density of each image."""
        queries = self.z(e)
        return log_density(queries, self.standardise(self.references_), float(self.bandwidth_))


class ClassKDE(ZScored, ClassScorer):
    """Highest of the classes' own log-densities, in the units of `GlobalKDE`."""

    name: ClassVar[str] = "kde_class"
    bandwidth_: Float64[np.ndarray, ""]
    references_: Float32[np.ndarray, "reference dimension"]
    targets_: Int[np.ndarray, "reference"]

    def fit(self, train: Embeddings, val: Embeddings) -> ClassKDE:
        """As `GlobalKDE`, each validation image under the density of its own class."""
        references, held_out = self.fit_z_score(train, val)
        pairs = [
            (held_out[val.targets == c], references[train.targets == c])
            for c in np.unique(val.targets)
        ]
        best = choose_bandwidth(
            lambda h: sum(float(log_density(x, y, h).sum()) for x, y in pairs) / len(val)
        )
        self.bandwidth_ = np.array(best)
        self.references_ = train.coordinates
        self.targets_ = train.targets
        return self

    def class_scores(self, e: Embeddings) -> Float64[np.ndarray, "n class"]:
        """Log-density of each image under each class."""
        queries, references = self.z(e), self.standardise(self.references_)
        classes = range(int(self.targets_.max()) + 1)
        columns = [
            log_density(queries, references[self.targets_ == c], float(self.bandwidth_))
            for c in classes
        ]
        return np.stack(columns, axis=1)


def choose_bandwidth(likelihood: Callable[[float], float]) -> float:
    """The bandwidth of highest held-out log-likelihood, in z-scored units.

    The grid of the authors' code, extended geometrically while its best value is its first or
    last, within [1e-3, 100]. Equal images in both folds push towards 0; the bound stops that.
    """
    tried = {h: likelihood(h) for h in GRID}
    while True:
        grid = sorted(tried)
        best = max(grid, key=tried.__getitem__)
        if best == grid[0] and best > MIN_BANDWIDTH:
            further = max(MIN_BANDWIDTH, best * grid[0] / grid[1])
        elif best == grid[-1] and best < MAX_BANDWIDTH:
            further = min(MAX_BANDWIDTH, best * grid[-1] / grid[-2])
        else:
            return best
        tried[further] = likelihood(further)


COMPONENTS = (2, 3, 4, 6)


class ClassMixture(ZScored, ClassScorer):
    """Highest log-density of one class's mixture of diagonal Gaussians, in z-scored units.

    All classes have the same number J of components, that of 2, 3, 4 and 6 (the authors' grid)
    under which validation images of the same class are likeliest. A J needs two training images per
    component in the smallest class; where none has them, J is 1.
    """

    name: ClassVar[str] = "gmm"
    weights_: Float64[np.ndarray, "class component"]
    centres_: Float64[np.ndarray, "class component dimension"]
    variances_: Float64[np.ndarray, "class component dimension"]

    def fit(self, train: Embeddings, val: Embeddings) -> ClassMixture:
        """Fit each class of `train` for each J, seeded; choose J on `val`."""
        vectors, held_out = self.fit_z_score(train, val)
        smallest = int(class_counts(train).min())
        best = -np.inf
        for components in [j for j in COMPONENTS if 2 * j <= smallest] or [1]:
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
        return np.stack([_mixture_log_density(x, *mixture) for mixture in mixtures], axis=1)

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


def _mixture_log_density(
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
