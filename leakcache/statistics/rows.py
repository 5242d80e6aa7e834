"""Rows of statistics: the parts of a view that they are taken of, and their storage in 8 bits.

A view's parts are the whole, and where five are asked for its four corner quarters.

In 8 bits each family of each row is stored with its own lowest value and step. A row depends on no
other, so that images can be added, resumed and scored one by one. The error of a value is at most
half a step, 1/510 of the range of its family in its row; on gallery8 that is a tenth of its
deviation between images, and accuracy is the same (docs/PERFORMANCE.md).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from jaxtyping import Float, UInt8

LEAST = 64
"""Shortest side of a view, in pixels."""
GRID = 8
"""Quarters start on multiples of this many pixels, the block of a JPEG file."""

Span = tuple[int, int]
"""First position and the one after the last."""


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


def pixel_parts(size: tuple[int, int], parts: int) -> Parts:
    """Parts of a view of that height and width, in pixels: 1 for the whole, 5 with its quarters."""
    if parts == 1:
        return Parts.whole(*size)
    tall, wide = (max(side // 2 // GRID * GRID, LEAST) for side in size)
    return Parts.quarters(size, (tall, wide), GRID)


def activation_parts(size: tuple[int, int], scale: int, parts: int) -> Parts:
    """The same of activations of that height and width, `scale` times smaller than the view."""
    if parts == 1:
        return Parts.whole(*size)
    tall, wide = (max(side // 2, LEAST // scale) for side in size)
    return Parts.quarters(size, (tall, wide))


def _positions(span: Span, stride: int, extent: int) -> Span:
    first = span[0] // stride
    return first, first + (span[1] - span[0] - extent) // stride + 1


def _intervals(spans: tuple[Span, ...]) -> list[Span]:
    return list(pairwise(sorted({end for span in spans for end in span})))


def _within(inner: Span, outer: Span) -> bool:
    return outer[0] <= inner[0] and inner[1] <= outer[1]


LEVELS = 255
SCALE_BYTES = 2 * np.dtype("<f4").itemsize
"""Of the lowest value and the step of a family, which follow the codes of all families."""


def stored_length(lengths: Mapping[str, int]) -> int:
    """Bytes of a row of families of these lengths."""
    return sum(lengths.values()) + SCALE_BYTES * len(lengths)


def quantise(
    rows: Float[np.ndarray, "*row value"], lengths: Mapping[str, int]
) -> UInt8[np.ndarray, "*row byte"]:
    """Codes of all values, then lowest value and step of each family, as little-endian float32.

    Args:
        rows: families one after another; where one has a value that is not finite, it is read back
            as not finite.
        lengths: values of each family, in their order.
    """
    codes, scales = [], []
    for values in _families(rows.astype(np.float32), lengths):
        lowest = values.min(axis=-1, keepdims=True)
        with np.errstate(invalid="ignore", over="ignore"):
            step = (values.max(axis=-1, keepdims=True) - lowest) / np.float32(LEVELS)
            found = (values - lowest) / np.where(step > 0, step, 1)
        usable = np.isfinite(found)
        codes.append(np.where(usable, found, 0).round().clip(0, LEVELS).astype(np.uint8))
        scales += [lowest, np.where(usable.all(axis=-1, keepdims=True), step, np.nan)]
    ends = np.concatenate(scales, axis=-1).astype("<f4").view(np.uint8)
    stored: np.ndarray = np.concatenate([*codes, ends], axis=-1)
    return stored


def dequantise(
    stored: UInt8[np.ndarray, "*row byte"], lengths: Mapping[str, int]
) -> Float[np.ndarray, "*row value"]:
    """The values that `quantise` stored, within half a step, as float16."""
    count = sum(lengths.values())
    scales = np.ascontiguousarray(stored[..., count:]).view("<f4")
    values = np.empty((*stored.shape[:-1], count), np.float16)
    parts = zip(_families(stored[..., :count], lengths), _families(values, lengths), strict=True)
    for family, (codes, target) in enumerate(parts):
        lowest, step = (scales[..., 2 * family + k, None] for k in range(2))
        with np.errstate(over="ignore"):
            target[...] = lowest + step * codes
    return values


def _families(rows: np.ndarray, lengths: Mapping[str, int]) -> list[np.ndarray]:
    return np.split(rows, np.cumsum(list(lengths.values()))[:-1], axis=-1)
