"""Time of the exact kernel density estimate relative to scikit-learn's."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from sklearn.neighbors import KernelDensity

from leaknet.detectors.kde import log_density
from leaknet.speed.train import seconds

CPU = torch.device("cpu")
BANDWIDTH = 0.5


@dataclass(frozen=True)
class DensitySpeed:
    """Seconds of one evaluation.

    Attributes:
        ours: `leaknet.detectors.kde.log_density`.
        sklearn: `KernelDensity` with defaults, inexact in high dimension.
        sklearn_exact: the same with a single leaf, which is exact.
    """

    ours: float
    sklearn: float
    sklearn_exact: float


def measure_density(
    references: int = 5000, queries: int = 1000, dimension: int = 128, rounds: int = 3
) -> DensitySpeed:
    """Time the three in turn on standard normal data; the fastest round of each counts.

    Args:
        references: number of known embeddings.
        queries: number of embeddings to score.
        dimension: of an embedding.
        rounds: evaluations of each, after one warm-up of ours.
    """
    rng = np.random.default_rng(0)
    known, asked = rng.normal(size=(references, dimension)), rng.normal(size=(queries, dimension))
    tree = KernelDensity(bandwidth=BANDWIDTH).fit(known)
    leaf = KernelDensity(bandwidth=BANDWIDTH, leaf_size=references).fit(known)
    log_density(asked, known, BANDWIDTH)
    evaluations = (
        lambda: log_density(asked, known, BANDWIDTH),
        lambda: tree.score_samples(asked),
        lambda: leaf.score_samples(asked),
    )
    times = [[seconds(evaluate, CPU) for evaluate in evaluations] for _ in range(rounds)]
    return DensitySpeed(*(min(column) for column in zip(*times, strict=True)))
