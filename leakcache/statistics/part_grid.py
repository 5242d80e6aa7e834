"""Parts of a view: rectangles of a grid of positions.

A view's parts are the whole, and where five are asked for its four corner quarters. This module
needs neither torch nor NumPy.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

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
