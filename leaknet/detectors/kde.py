"""Gaussian kernel density of the known embeddings: the paper's open-set score (section 6).

`GlobalKDE` scores an image by the log-density of all closed training embeddings together,
`ClassKDE` by the highest log-density of one class. Both see embeddings after a global z-score
and share one bandwidth, the one under which closed *validation* images are likeliest. Where
the best value lies at an end of the grid, the grid is extended by its own last ratio until it
does not.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from math import log, pi
from typing import ClassVar

import numpy as np
import torch
from jaxtyping import Float, Float32, Float64, Int
from torch import Tensor

from leaknet.data.embeddings import Embeddings
from leaknet.detectors.base import ClassScorer, ZScored

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
    """Log-density of all closed training embeddings (in z-scored units, per unit volume)."""

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
