"""Gaussian kernel density of the known embeddings: the paper's open-set score (section 6).

`GlobalKDE` scores an image by the log-density of all closed training embeddings together,
`ClassKDE` by the highest log-density of one class. Both see embeddings after a global z-score
and share one bandwidth, the one under which closed *validation* images are likeliest. Where
the best value lies at an end of the grid, the grid is extended by its own last ratio until it
does not.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar

import numpy as np
from jaxtyping import Float32, Float64, Int

from leaknet.data.embeddings import Embeddings
from leaknet.detectors.base import ClassScorer, Detector
from leaknet.detectors.fold_detectors_closed_set import Standardiser, require_closed
from leaknet.detectors.fold_detectors_density import log_density

GRID = (0.1, 0.2, 0.3, 0.4, 0.6, 0.8, 1.0)
# Below, all images are certain to be unlike each other; above, all references are one blob.
LEAST, MOST = 1e-3, 1e2


class GlobalKDE(Detector):
    """Log-density of all closed training embeddings (in z-scored units, per unit volume)."""

    name: ClassVar[str] = "kde"
    bandwidth_: Float64[np.ndarray, ""]
    mean_: Float64[np.ndarray, "dimension"]
    scale_: Float64[np.ndarray, "dimension"]
    references_: Float32[np.ndarray, "reference dimension"]

    def fit(self, train: Embeddings, val: Embeddings) -> GlobalKDE:
        """Keep the training embeddings; choose the bandwidth on the validation ones."""
        require_closed(train, val)
        z = Standardiser.of(train)
        references, held_out = z(train.vectors), z(val.vectors)
        best = choose_bandwidth(lambda h: float(log_density(held_out, references, h).mean()))
        self.bandwidth_ = np.array(best)
        self.mean_, self.scale_, self.references_ = z.mean, z.scale, train.vectors
        return self

    def score_samples(self, e: Embeddings) -> Float64[np.ndarray, "n"]:
        """Log-density of each image."""
        self.require_fit()
        z = Standardiser(self.mean_, self.scale_)
        return log_density(z(e.vectors), z(self.references_), float(self.bandwidth_))


class ClassKDE(ClassScorer):
    """Highest of the classes' own log-densities, in the units of `GlobalKDE`."""

    name: ClassVar[str] = "kde_class"
    bandwidth_: Float64[np.ndarray, ""]
    mean_: Float64[np.ndarray, "dimension"]
    scale_: Float64[np.ndarray, "dimension"]
    references_: Float32[np.ndarray, "reference dimension"]
    targets_: Int[np.ndarray, "reference"]

    def fit(self, train: Embeddings, val: Embeddings) -> ClassKDE:
        """As `GlobalKDE`, each validation image under the density of its own class."""
        require_closed(train, val)
        z = Standardiser.of(train)
        references, held_out = z(train.vectors), z(val.vectors)
        pairs = [
            (held_out[val.targets == c], references[train.targets == c])
            for c in np.unique(val.targets)
        ]
        best = choose_bandwidth(
            lambda h: sum(float(log_density(x, y, h).sum()) for x, y in pairs) / len(val)
        )
        self.bandwidth_ = np.array(best)
        self.mean_, self.scale_, self.references_ = z.mean, z.scale, train.vectors
        self.targets_ = train.targets
        return self

    def class_scores(self, e: Embeddings) -> Float64[np.ndarray, "n class"]:
        """Log-density of each image under each class."""
        self.require_fit()
        z = Standardiser(self.mean_, self.scale_)
        queries, references = z(e.vectors), z(self.references_)
        classes = range(int(self.targets_.max()) + 1)
        columns = [
            log_density(queries, references[self.targets_ == c], float(self.bandwidth_))
            for c in classes
        ]
        return np.stack(columns, axis=1)

    def score_samples(self, e: Embeddings) -> Float64[np.ndarray, "n"]:
        """Log-density of each image under its likeliest class."""
        best: Float64[np.ndarray, "n"] = self.class_scores(e).max(axis=1)
        return best


def choose_bandwidth(likelihood: Callable[[float], float]) -> float:
    """The bandwidth of highest held-out log-likelihood, in z-scored units.

    The grid of the authors' code, extended geometrically while its best value is its first or
    last, within [1e-3, 100]. Equal images in both folds push towards 0; the bound stops that.
    """
    tried = {h: likelihood(h) for h in GRID}
    while True:
        grid = sorted(tried)
        best = max(grid, key=tried.__getitem__)
        if best == grid[0] and best > LEAST:
            further = max(LEAST, best * grid[0] / grid[1])
        elif best == grid[-1] and best < MOST:
            further = min(MOST, best * grid[-1] / grid[-2])
        else:
            return best
        tried[further] = likelihood(further)
