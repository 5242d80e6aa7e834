"""Groups of images that most likely have one source each."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from leaknet.model.pair_calibration import clusters
from leaknet.sources.comparison import SourceComparison


@dataclass(frozen=True)
class Cluster:
    """Images that are taken for one source's.

    Attributes:
        number: from 1, the largest cluster first.
        images: numbers in the comparison.
        within: mean log10 likelihood ratio of its pairs; None for a single image.
        nearest: number of the cluster with the highest mean ratio to it; None for the only one.
        between: that mean ratio.
    """

    number: int
    images: tuple[int, ...]
    within: float | None
    nearest: int | None
    between: float | None


@dataclass(frozen=True)
class Clustering:
    """Clusters of some images, by average linkage of calibrated log10 likelihood ratios.

    Attributes:
        comparison: of every two images.
        cut: mean ratio down to which groups are joined; chosen on held-out generators.
        clusters: the largest first.
    """

    comparison: SourceComparison
    cut: float
    clusters: tuple[Cluster, ...]

    @classmethod
    def of(cls, comparison: SourceComparison) -> Clustering:
        """Cluster the images of a comparison."""
        cut, ratios = comparison.calibration.cut, comparison.log10_lr
        labels = clusters(ratios, cut)
        sizes = np.bincount(labels)
        members = [np.flatnonzero(labels == i) for i in np.argsort(-sizes, kind="stable")]
        found = [_cluster(ratios, members, index) for index in range(len(members))]
        return cls(comparison, cut, tuple(found))

    def rows(self) -> list[tuple[str, int]]:
        """Path and cluster of each image, in the order of the files."""
        number = {image: one.number for one in self.clusters for image in one.images}
        return [(path, number[image]) for image, path in enumerate(self.comparison.paths)]


def _cluster(ratios: np.ndarray, members: list[np.ndarray], index: int) -> Cluster:
    own = members[index]
    one, other = np.triu_indices(len(own), 1)
    within = float(ratios[own[one], own[other]].mean()) if len(own) > 1 else None
    means = [float(ratios[np.ix_(own, rest)].mean()) for rest in members]
    means[index] = -np.inf
    nearest = int(np.argmax(means)) if len(members) > 1 else None
    between = None if nearest is None else means[nearest]
    number = None if nearest is None else nearest + 1
    return Cluster(index + 1, tuple(own.tolist()), within, number, between)
