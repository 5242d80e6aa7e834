"""A map of the statistics branch: the margin that each tile of an image has by itself.

Statistics of a tile are computed by the functions that compute those of an image and its quarters:
pixels of the tile, and the tile's corner of the activations of the whole view. The regressions
then score the tile as if it were the image. Statistics of the resized image have no place in it
and are left out. A tile that covers a quarter has exactly that quarter's statistics.

Tiles do not add up to the margin of the image, because statistics are not means over tiles:
`Contributions.by_part` is the decomposition that does.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Float64, UInt8
from scipy.stats import spearmanr
from torch import Tensor

from leakcache.columns.quantise import dequantise, quantise
from leakcache.encoder.autoencoder import Encoder
from leakcache.statistics.activation_features import LENGTHS as ACTIVATION_LENGTHS
from leakcache.statistics.activation_features import SCALES, activation_statistics
from leakcache.statistics.part_grid import GRID, LEAST
from leakcache.statistics.pixel_features import LENGTHS, pixel_statistics
from leaknet.explain.contributions import MarginWeights, native_families
from leaknet.model.ridge import RidgeMap

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
