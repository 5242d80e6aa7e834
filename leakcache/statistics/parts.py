"""Parts of a view, and means and covariances of what lies at the positions of each part.

A view's parts are the whole, and where five are asked for its four corner quarters. What is
computed at a position, a block or a patch, is computed once and enters every part that holds it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import pairwise

import torch
from jaxtyping import Float32, Float64, Int64, Integer
from torch import Tensor

CHUNK_BYTES = {"cpu": 2**20, "cuda": 2**28}
"""Vectors of one matrix product: on a CPU they stay in the cache of a core."""

Span = tuple[int, int]
"""First position and the one after the last."""

Vectors = Callable[[Span, list[Span]], list[Float32[Tensor, "batch value position"]]]
"""Gives the vectors at the positions of some rows of a grid, a tensor for each span of columns."""


@dataclass(frozen=True)
class Parts:
    """Rectangles of a grid, one for each part.

    Attributes:
        rows: rows of each part.
        columns: columns of each part.
    """

    rows: tuple[Span, ...]
    columns: tuple[Span, ...]

    @classmethod
    def whole(cls, height: int, width: int) -> Parts:
        """The whole of a grid of that size, alone."""
        return cls(((0, height),), ((0, width),))

    @classmethod
    def quarters(cls, size: tuple[int, int], quarter: tuple[int, int], grid: int = 1) -> Parts:
        """The whole of a grid of that size, then its corners of the size of a quarter.

        Corners start on multiples of `grid`.
        """
        down, right = (
            (side - part) // grid * grid for side, part in zip(size, quarter, strict=True)
        )
        top, bottom = (0, quarter[0]), (down, down + quarter[0])
        left, beside = (0, quarter[1]), (right, right + quarter[1])
        return cls(
            ((0, size[0]), top, top, bottom, bottom), ((0, size[1]), left, beside, left, beside)
        )

    def positions(self, stride: int, extent: tuple[int, int]) -> Parts:
        """Positions of the windows of `extent` rows and columns that lie within each part.

        Windows start at every `stride`-th row and column of the grid, and so do the parts.
        """
        return Parts(
            tuple(_positions(span, stride, extent[0]) for span in self.rows),
            tuple(_positions(span, stride, extent[1]) for span in self.columns),
        )

    def take(self, chosen: list[int]) -> Parts:
        """Some parts."""
        return Parts(
            tuple(self.rows[part] for part in chosen), tuple(self.columns[part] for part in chosen)
        )

    def cells(self) -> Iterator[tuple[Span, list[Span], list[list[int]]]]:
        """Disjoint rectangles that cover the parts, row by row of rectangles.

        Each time rows, the columns of each rectangle, and the parts in which each lies.
        """
        columns = _intervals(self.columns)
        for rows in _intervals(self.rows):
            owners = [
                [
                    part
                    for part, (down, right) in enumerate(self)
                    if _within(rows, down) and _within(span, right)
                ]
                for span in columns
            ]
            yield rows, columns, owners

    def counts(self) -> list[int]:
        """Positions of each part."""
        return [(down[1] - down[0]) * (right[1] - right[0]) for down, right in self]

    def __len__(self) -> int:
        return len(self.rows)

    def __iter__(self) -> Iterator[tuple[Span, Span]]:
        return zip(self.rows, self.columns, strict=True)


def part_means(
    values: Float32[Tensor, "batch row column value"], parts: Parts
) -> Float32[Tensor, "batch part value"]:
    """Means over the positions of each part, as one matrix product."""
    weights = torch.zeros(len(parts), *values.shape[1:3], device=values.device)
    for weight, (rows, columns), count in zip(weights, parts, parts.counts(), strict=True):
        weight[slice(*rows), slice(*columns)] = 1 / count
    return weights.flatten(1) @ values.flatten(1, 2)


def part_counts(
    numbers: Integer[Tensor, "batch plane row column"], size: int, parts: Parts
) -> Int64[Tensor, "batch part plane {size}"]:
    """How often each number from 0 to `size` - 1 occurs at the positions of each part."""
    batch, planes = numbers.shape[:2]
    first = torch.arange(batch * planes, device=numbers.device, dtype=torch.int32) * size
    apart = numbers + first.reshape(batch, planes, 1, 1)
    found = numbers.new_zeros(len(parts), batch * planes * size, dtype=torch.int64)
    for rows, columns, owners in parts.cells():
        for span, own in zip(columns, owners, strict=True):
            cell = apart[:, :, slice(*rows), slice(*span)].flatten()
            found[own] += torch.bincount(cell, minlength=found.shape[1])
    return found.reshape(len(parts), batch, planes, size).transpose(0, 1)


def part_covariances(
    vectors: Vectors, size: int, source: Float32[Tensor, "batch _ _ _"], parts: Parts
) -> Float64[Tensor, "batch part {size} {size}"]:
    """Covariances (divided by the count) of the vectors at the positions of each part.

    Products are in float32 and sums of them in float64, so the vectors' mean should not be large
    beside their deviation.

    Args:
        vectors: gives the vectors.
        size: values of a vector.
        source: what the vectors are taken from.
        parts: of the grid of positions; the first is the whole.
    """
    batch = len(source)
    products = source.new_zeros(batch, len(parts), size, size, dtype=torch.float64)
    sums = source.new_zeros(batch, len(parts), size, dtype=torch.float64)
    limit = CHUNK_BYTES.get(source.device.type, CHUNK_BYTES["cuda"])
    step = max(1, limit // (batch * size * parts.columns[0][1] * source.element_size()))
    for (first, last), columns, owners in parts.cells():
        for start in range(first, last, step):
            rows = (start, min(start + step, last))
            for found, own in zip(vectors(rows, columns), owners, strict=True):
                products[:, own] += (found @ found.mT).double()[:, None]
                sums[:, own] += found.sum(2).double()[:, None]
    counts = torch.tensor(parts.counts(), dtype=torch.float64, device=source.device)
    means = sums / counts[:, None]
    second = products / counts[:, None, None]
    return second - means[..., :, None] * means[..., None, :]


def _positions(span: Span, stride: int, extent: int) -> Span:
    first = span[0] // stride
    return first, first + (span[1] - span[0] - extent) // stride + 1


def _intervals(spans: tuple[Span, ...]) -> list[Span]:
    return list(pairwise(sorted({end for span in spans for end in span})))


def _within(inner: Span, outer: Span) -> bool:
    return outer[0] <= inner[0] and inner[1] <= outer[1]
