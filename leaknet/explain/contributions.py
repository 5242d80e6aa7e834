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

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Float64, UInt8
from scipy.stats import spearmanr
from torch import Tensor

from leakcache.encoder.autoencoder import Encoder
from leakcache.statistics.activation_features import LENGTHS as ACTIVATION_LENGTHS
from leakcache.statistics.activation_features import SCALES, activation_statistics
from leakcache.statistics.pixel_features import LENGTHS, pixel_statistics
from leakcache.statistics.rows import GRID, LEAST, dequantise, quantise
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


ACROSS = 4
"""Tiles in a row at most; fewer where they would be smaller than `LEAST` pixels."""

Box = tuple[int, int, int, int]
"""First row, row after the last, first column, column after the last, in pixels of a view."""


def tile_boxes(height: int, width: int, across: int = ACROSS) -> list[Box]:
    """Tiles of one size that cover a view, row by row; starts are multiples of `GRID`."""
    rows, columns = _spans(height, across), _spans(width, across)
    return [(*down, *right) for down in rows for right in columns]


def _spans(length: int, across: int) -> list[tuple[int, int]]:
    count = max(1, min(across, length // LEAST))
    size = max(LEAST, length // count // GRID * GRID)
    starts = np.linspace(0, length - size, count) // GRID * GRID
    return [(int(start), int(start) + size) for start in starts]


@dataclass(frozen=True)
class TileStatistics:
    """Statistics of the tiles of a view, in the stored type.

    Attributes:
        boxes: where the tiles lie.
        values: pixel statistics, then those of activations where the branch reads them.
    """

    boxes: list[Box]
    values: Float[Tensor, "tile value"]


def tile_statistics(
    view: UInt8[np.ndarray, "height width 3"], boxes: list[Box], encoder: Encoder | None
) -> TileStatistics:
    """Statistics of tiles of one size.

    Statistics of a tile are computed by the functions that compute those of an image and its
    quarters: pixels of the tile, and the tile's corner of the activations of the whole view. The
    regressions then score the tile as if it were the image. Statistics of the resized image have no
    place in it and are left out. A tile that covers a quarter has exactly that quarter's
    statistics.

    Tiles do not add up to the margin of the image, because statistics are not means over tiles:
    `Contributions.by_part` is the decomposition that does.

    Args:
        view: native.
        boxes: sides are multiples of `GRID`, 64 pixels or more.
        encoder: of the run; None where the branch reads no activations.
    """
    pixels = torch.from_numpy(view.copy())  # that of an image is read-only
    tiles = torch.stack([pixels[top:bottom, left:right] for top, bottom, left, right in boxes])
    found = [_stored(pixel_statistics(tiles), LENGTHS)]
    if encoder is not None:
        _, maps = encoder.encode_with_activations(pixels[None])
        seen = activation_statistics(_cropped(maps, boxes))
        found.append(_stored(seen, ACTIVATION_LENGTHS))
    return TileStatistics(boxes, torch.cat(found, dim=1))


def _stored(
    statistics: Float[Tensor, "tile 1 value"], lengths: Mapping[str, int]
) -> Float[Tensor, "tile value"]:
    """Statistics of wholes as a cache gives them back."""
    stored = quantise(statistics[:, 0].cpu().numpy(), lengths)
    return torch.from_numpy(dequantise(stored, lengths))


def _cropped(maps: Sequence[Tensor], boxes: list[Box]) -> tuple[Tensor, ...]:
    found = []
    for scale, values in zip(SCALES, maps, strict=True):
        corners = [tuple(edge // scale for edge in box) for box in boxes]
        found.append(torch.cat([values[:, :, a:b, c:d] for a, b, c, d in corners]))
    return tuple(found)


def tile_features(
    weights: MarginWeights, tiles: TileStatistics
) -> list[tuple[Float64[Tensor, "tile value"], Float64[Tensor, " value"], float]]:
    """Features of tiles, their weights ΔW and the weight of the regression, for each regression."""
    count = sum(native_families(weights.branch).values())
    found = []
    for ridge, weight in weights.maps:
        features = _native(ridge, tiles.values.to(ridge.weight.device), count)
        found.append((features, weights.of(ridge)[:count], weight))
    return found


def _native(ridge: RidgeMap, values: Tensor, count: int) -> Float64[Tensor, "tile value"]:
    """Features of the native families, which come first among those of a regression."""
    absent = ridge.features.mean[count:].expand(len(values), -1)
    features: Tensor = ridge.features(torch.cat([values.float(), absent], dim=1))
    return features[:, :count].double()


def tile_margins(weights: MarginWeights, tiles: TileStatistics) -> Float64[np.ndarray, " tile"]:
    """The margin of each tile by itself, without biases."""
    terms = [w * (features @ delta) for features, delta, w in tile_features(weights, tiles)]
    found: np.ndarray = torch.stack(terms).sum(dim=0).cpu().numpy()
    return found


def shuffled_agreement(
    weights: MarginWeights, tiles: TileStatistics, margins: Float64[np.ndarray, " tile"], draws: int
) -> float | None:
    """Median |rank correlation| of a map with maps of weights shuffled within each family.

    A map that hardly depends on which statistic has which weight shows the image, not the model
    (Adebayo et al., "Sanity checks for saliency maps", 2018).

    Returns:
        0 to 1; None for a map of fewer than four tiles or of equal values.
    """
    if len(margins) < 4 or np.ptp(margins) == 0:
        return None
    lengths = list(native_families(weights.branch).values())
    prepared = tile_features(weights, tiles)
    found = []
    for seed in range(draws):
        rng = np.random.default_rng(seed)
        starts = np.cumsum([0, *lengths[:-1]])
        order = np.concatenate(
            [s + rng.permutation(n) for s, n in zip(starts, lengths, strict=True)]
        )
        other = sum(w * (features @ delta[order]).cpu().numpy() for features, delta, w in prepared)
        found.append(abs(float(spearmanr(margins, other).statistic)))
    return float(np.median(found))
