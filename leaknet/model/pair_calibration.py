"""Calibrated likelihood ratios that two images have the same source, known or not.

The log-likelihood ratio of a two-covariance model becomes a calibrated log10 ratio by logistic
regression at even prior odds, on pairs of training images of generators that the fit has not seen.
Only pairs of different prompts count. The fit has seen these prompts, by other generators; fits
without them are too weak to stand for the whole model (docs/LOG.md).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import astuple, dataclass, replace

import numpy as np
import torch
from jaxtyping import Bool, Float, Float64, Int, Int64, Shaped
from torch import Tensor

from leaknet.calibration.likelihood_ratio import cllr, fit_logistic, supported_range
from leaknet.metrics import auroc
from leaknet.model.two_covariance import FitSources, TwoCovariance

FOLDS = 4
"""Folds of generators; fewer where a fold would have less than two."""
MAX_COMPARED = 1000
"""Images of a fold of generators: time grows with the square of their number."""
MIN_CLASSES = 4
"""Generators, so that a fit with two of them left out still tells two apart."""
CUT_STEP = 0.05
SEED = 0


@dataclass(frozen=True)
class PairCalibration:
    """log10 LR = offset + slope · (log-likelihood ratio of the model), within [low, high].

    Attributes:
        slope, offset, low, high: in units of log10.
        cut: mean log10 LR of two groups of images above which clustering joins them.
        auroc: of the held-out pairs, same against different source.
        cllr: their cost in bits; 1 is uninformative.
        images, generators: whose pairs these are.
    """

    slope: float
    offset: float
    low: float
    high: float
    cut: float
    auroc: float
    cllr: float
    images: int
    generators: int

    def log10(self, ratios: Float64[np.ndarray, "*pair"]) -> Float64[np.ndarray, "*pair"]:
        """Calibrated log10 ratios of log-likelihood ratios."""
        return np.asarray(np.clip(self.offset + self.slope * ratios, self.low, self.high))

    def tensor(self) -> Float[Tensor, "value"]:
        """All values, in the order of the fields."""
        return torch.tensor([float(value) for value in astuple(self)], dtype=torch.float64)

    @classmethod
    def of(cls, values: Float[Tensor, "value"]) -> PairCalibration | None:
        """From `tensor`; None from an empty one."""
        if not len(values):
            return None
        slope, offset, low, high, cut, auroc, cllr, images, generators = values.double().tolist()
        return cls(slope, offset, low, high, cut, auroc, cllr, int(images), int(generators))


@dataclass(frozen=True)
class HeldOutPairs:
    """Pairs of images of generators that a fit has not seen.

    Attributes:
        ratios: log-likelihood ratio of every two images.
        targets: class of each image.
        groups: prompt group of each image.
    """

    ratios: Float64[np.ndarray, "image image"]
    targets: Int[np.ndarray, "image"]
    groups: Shaped[np.ndarray, "image"]

    def pairs(self) -> tuple[Float64[np.ndarray, "pair"], Bool[np.ndarray, "pair"]]:
        """Ratios of the pairs of different prompts, and whether each has one source."""
        one, other = np.triu_indices(len(self.targets), 1)
        apart = self.groups[one] != self.groups[other]
        one, other = one[apart], other[apart]
        return self.ratios[one, other], self.targets[one] == self.targets[other]


def held_out_pairs(
    fit: FitSources,
    targets: Int64[Tensor, "image"],
    groups: Shaped[np.ndarray, "image"],
    spread: float,
) -> Iterator[HeldOutPairs]:
    """Pairs of each fold of generators, under a fit to the other folds.

    Args:
        fit: to some of the images.
        targets: class of each image, 0 to classes - 1, each of which occurs.
        groups: prompt group of each image.
        spread: s of the model.
    """
    numbers = targets.numpy()
    classes = np.random.default_rng(SEED).permutation(int(numbers.max()) + 1)
    if len(classes) < MIN_CLASSES:
        return
    folds = min(FOLDS, len(classes) // 2)
    left_out = [np.isin(numbers, classes[fold::folds]) for fold in range(folds)]
    fitted = [torch.from_numpy(np.flatnonzero(~rows)) for rows in left_out]
    subsets = [(rows, torch.unique(targets[rows], return_inverse=True)[1]) for rows in fitted]
    for rows, sources in zip(left_out, fit(subsets), strict=True):
        compared = np.flatnonzero(rows)
        compared = compared[:: -(-len(compared) // MAX_COMPARED)]
        model = TwoCovariance.of(sources.directions, spread)
        ratios = model.pairwise(sources.coordinates(torch.from_numpy(compared)))
        yield HeldOutPairs(ratios.numpy(), numbers[compared], groups[compared])


def calibrate_pairs(held_out: Sequence[HeldOutPairs]) -> PairCalibration | None:
    """Fit to held-out pairs; None without pairs of both kinds."""
    pairs = [fold.pairs() for fold in held_out]
    ratios = np.concatenate([np.empty(0), *(values for values, _ in pairs)])
    same = np.concatenate([np.empty(0, dtype=bool), *(own for _, own in pairs)])
    if same.all() or not same.any():
        return None
    slope, offset = fit_logistic(ratios, same, np.where(same, 1.0, same.sum() / (~same).sum()))
    log10 = offset + slope * ratios
    # Pairs share images, so that the evidence is that of the images, not of the pairs.
    images = sum(len(fold.targets) for fold in held_out)
    low, high = supported_range(log10, same, images)
    generators = len(np.unique(np.concatenate([fold.targets for fold in held_out])))
    area, bounded = auroc(ratios[same], ratios[~same]), np.clip(log10, low, high)
    cost = cllr(bounded, same)
    found = PairCalibration(slope, offset, low, high, 0.0, area, cost, images, generators)
    return replace(found, cut=_best_cut(found, held_out))


def merges(log10_ratios: Float64[np.ndarray, "image image"]) -> Float64[np.ndarray, "merge 4"]:
    """Average linkage of images, as SciPy's linkage matrix.

    A height is the mean log10 ratio between the two groups, subtracted from the largest ratio.
    """
    # Importing scipy.cluster costs a quarter of a second, which scoring need not pay.
    from scipy.cluster.hierarchy import linkage
    from scipy.spatial.distance import squareform

    distances = log10_ratios.max() - log10_ratios
    found: np.ndarray = linkage(squareform(distances, checks=False), "average")
    return found


def clusters(
    log10_ratios: Float64[np.ndarray, "image image"], cut: float
) -> Int[np.ndarray, "image"]:
    """Cluster of each image, from 0, numbered in the order of their first images.

    Args:
        log10_ratios: calibrated, of every two images; symmetric.
        cut: two groups are joined while the mean ratio between them is at least this.
    """
    if len(log10_ratios) < 2:
        return np.zeros(len(log10_ratios), dtype=np.int64)
    return _cut_tree(log10_ratios, merges(log10_ratios), cut)


def _cut_tree(log10_ratios: np.ndarray, tree: np.ndarray, cut: float) -> np.ndarray:
    from scipy.cluster.hierarchy import fcluster

    height = float(log10_ratios.max()) - cut
    found = fcluster(tree, height, "distance")
    _, first, number = np.unique(found, return_index=True, return_inverse=True)
    ordered: np.ndarray = np.argsort(np.argsort(first))[number]
    return ordered


def _best_cut(calibration: PairCalibration, held_out: Sequence[HeldOutPairs]) -> float:
    """The cut of the highest mean adjusted Rand index over the folds; the middle one of ties."""
    from sklearn.metrics import adjusted_rand_score

    count = math.ceil((calibration.high - calibration.low) / CUT_STEP) + 1
    cuts = np.linspace(calibration.low, calibration.high, count)
    scores = np.zeros(count)
    for fold in held_out:
        ratios = calibration.log10(fold.ratios)
        tree = merges(ratios)
        scores += [adjusted_rand_score(fold.targets, _cut_tree(ratios, tree, cut)) for cut in cuts]
    best = np.flatnonzero(scores >= scores.max() - 1e-9)
    return float(cuts[best[len(best) // 2]])
