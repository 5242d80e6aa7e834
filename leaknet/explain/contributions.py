"""Exact contributions of statistics to the margin between two classes of the statistics branch.

    margin = o (z̄ ΔW + Δb) + (1 - o) (c ΔV + Δa)

z̄ is the mean of the features of an image and of its quarters, c are the features that the
regression on degraded copies reads of the whole image. ΔW and Δb are the weights and the constant
of the margin of the scores fitted to originals, those of the ridge and those of the likelihood
ratios together (`StatisticsBranch.margin_form`); ΔV and Δa the differences of weights and biases of
the regression on copies. o is the weight of the scores fitted to originals for this image. Each
term of these sums belongs to one family of statistics and one part of the image.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Float64
from torch import Tensor

from leakcache.statistics.activation_features import LENGTHS as ACTIVATION_LENGTHS
from leakcache.statistics.pixel_features import LENGTHS
from leaknet.model.ridge import RidgeMap
from leaknet.model.statistics_branch import StatisticsBranch

PARTS = ("whole", "top left", "top right", "bottom left", "bottom right")
COPIES = "whole, regression on degraded copies"
RESIZED = "resized_"


@dataclass(frozen=True)
class Contributions:
    """Terms of the margin between two classes; their sum and `bias` are the margin.

    Attributes:
        families: of statistics; names as in the cache, `resized_` before those of the resized view.
        parts: of the image, and the regression on degraded copies where the branch has one.
        values: a term for each family and part; positive values support the first class.
        bias: difference of the biases.
        margin: score of the first class less that of the second, as the branch computes it.
        original: weight of the regression on originals, 0 to 1; 1 without the other one.
    """

    families: tuple[str, ...]
    parts: tuple[str, ...]
    values: Float64[np.ndarray, "family part"]
    bias: float
    margin: float
    original: float

    @property
    def total(self) -> float:
        """Sum of all terms: the margin up to rounding."""
        return float(self.values.sum()) + self.bias

    @property
    def by_group(self) -> dict[str, float]:
        """Sums over the families of each group, the largest magnitude first."""
        found: dict[str, float] = {}
        for family, value in zip(self.families, self.values.sum(axis=1).tolist(), strict=True):
            found[group_of(family)] = found.get(group_of(family), 0.0) + value
        return dict(sorted(found.items(), key=lambda item: -abs(item[1])))

    @property
    def by_family(self) -> dict[str, float]:
        """Sums over parts, the largest magnitude first."""
        sums = dict(zip(self.families, self.values.sum(axis=1).tolist(), strict=True))
        return dict(sorted(sums.items(), key=lambda item: -abs(item[1])))

    @property
    def by_part(self) -> dict[str, float]:
        """Sums over families."""
        return dict(zip(self.parts, self.values.sum(axis=0).tolist(), strict=True))


def group_of(family: str) -> str:
    """What a family is measured on, in words: pixels, or activations at one scale."""
    name = family.removeprefix(RESIZED)
    words = "pixels" if name in LENGTHS else f"activations at 1/{name.rpartition('_')[2]}"
    return f"{words}, resized image" if family.startswith(RESIZED) else words


@dataclass(frozen=True)
class MarginWeights:
    """Weights on features of the margin between two classes, for one image.

    Attributes:
        branch: the statistics branch.
        pair: numbers of the two classes.
        original: weight of the scores fitted to originals.
        delta: ΔW.
        constant: Δb.
    """

    branch: StatisticsBranch
    pair: tuple[int, int]
    original: float
    delta: Float64[Tensor, " value"]
    constant: float

    @property
    def maps(self) -> Iterator[tuple[RidgeMap, float]]:
        """The regressions with their weights."""
        yield self.branch.ridge, self.original
        if self.branch.copy_ridge is not None:
            yield self.branch.copy_ridge, 1 - self.original

    def of(self, ridge: RidgeMap) -> Float64[Tensor, " value"]:
        """Weights from the features of a regression to the margin: ΔW or ΔV."""
        if ridge is self.branch.ridge:
            return self.delta
        first, second = self.pair
        return (ridge.weight[:, first] - ridge.weight[:, second]).double()

    def bias(self, ridge: RidgeMap) -> float:
        """Δb or Δa."""
        if ridge is self.branch.ridge:
            return self.constant
        first, second = self.pair
        return float(ridge.bias[first].double() - ridge.bias[second].double())


def weigh(
    branch: StatisticsBranch,
    statistics: Float[Tensor, "1 part value"],
    pair: tuple[int, int],
) -> tuple[Contributions, MarginWeights]:
    """Contributions to the margin of one image, and the weights that they come from.

    Args:
        branch: fitted.
        statistics: of one image, as `StatisticsBranch.statistics_of` gives them.
        pair: numbers of the first and of the second class.
    """
    parts = branch.features_of(statistics)[0]
    scores, original = branch.class_scores(statistics)
    form = branch.margin_form(parts.mean(dim=0), pair)
    weights = MarginWeights(branch, pair, float(original[0]), *form)
    lengths = branch.ridge.features.lengths
    each = weights.original * parts.double() * weights.of(branch.ridge) / len(parts)
    columns = {name: _by_family(row, lengths) for name, row in zip(PARTS, each, strict=False)}
    bias = weights.original * weights.bias(branch.ridge)
    if (copies := branch.copy_ridge) is not None:
        terms = copies.features(statistics[0, 0]).double() * weights.of(copies)
        columns[COPIES] = _by_family((1 - weights.original) * terms, copies.features.lengths)
        bias += (1 - weights.original) * weights.bias(copies)
        lengths = copies.features.lengths
    values = [[column.get(family, 0.0) for column in columns.values()] for family in lengths]
    margin = float(scores[0, pair[0]].double() - scores[0, pair[1]].double())
    families, names = tuple(lengths), tuple(columns)
    terms = np.array(values, dtype=np.float64)
    return Contributions(families, names, terms, bias, margin, weights.original), weights


def _by_family(terms: Float64[Tensor, " value"], lengths: Mapping[str, int]) -> dict[str, float]:
    split = torch.split(terms, list(lengths.values()))
    return {name: float(part.sum()) for name, part in zip(lengths, split, strict=True)}


def native_families(branch: StatisticsBranch) -> dict[str, int]:
    """Lengths of the families that are measured at native resolution, first among features."""
    seen = ACTIVATION_LENGTHS if branch.config.activations else {}
    return {**LENGTHS, **seen}
