"""How fast the exact kernel density is on this machine, beside scikit-learn's."""

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
        sklearn: `KernelDensity` as it comes, which is inexact in high dimension.
        sklearn_exact: the same with one leaf, which is exact.
    """

    ours: float
    sklearn: float
    sklearn_exact: float


def measure_density(
    references: int = 5000, queries: int = 1000, dimension: int = 128, rounds: int = 3
) -> DensitySpeed:
    """Time the three in turn on unit normal data; the fastest round of each counts.

    Args:
        references: known embeddings.
        queries: images to score.
        dimension: of an embedding.
        rounds: evaluations of each, after one of ours to warm up.
    """
    rng = np.random.default_rng(0)
    known, asked = rng.normal(size=(references, dimension)), rng.normal(size=(queries, dimension))
    tree = KernelDensity(bandwidth=BANDWIDTH).fit(known)
    leaf = KernelDensity(bandwidth=BANDWIDTH, leaf_size=references).fit(known)
    log_density(asked, known, BANDWIDTH)
    times: list[tuple[float, float, float]] = []
    for _ in range(rounds):
        times.append(
            (
                seconds(lambda: log_density(asked, known, BANDWIDTH), CPU),
                seconds(lambda: tree.score_samples(asked), CPU),
                seconds(lambda: leaf.score_samples(asked), CPU),
            )
        )
    return DensitySpeed(*(min(column) for column in zip(*times, strict=True)))
