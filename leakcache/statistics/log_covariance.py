"""Matrix logarithms of covariances as vectors, in batches, and covariances of parts of a view.

The matrix logarithm maps covariances to a flat space (log-Euclidean metric: Arsigny et al.,
"Log-Euclidean metrics for fast and simple calculus on diffusion tensors", 2006): directions in
which values hardly vary, where generators differ, weigh as much as those in which they vary most.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise

import torch
from jaxtyping import Float32, Float64
from torch import Tensor


def triangle_length(values: int) -> int:
    """Entries of `log_triangle` of a covariance of so many values."""
    return values * (values + 1) // 2


def log_triangle(
    covariance: Float64[Tensor, "*batch value value"], floor: Float64[Tensor, "*batch"] | float
) -> Float32[Tensor, "*batch entry"]:
    """Upper triangle of log(C + floor · I), off-diagonal entries times √2.

    The Euclidean distance of two vectors is the Frobenius distance of the matrix logarithms.
    Vectors of matrices that are not finite are NaN.
    """
    size = covariance.shape[-1]
    least = torch.as_tensor(floor, dtype=covariance.dtype, device=covariance.device)[..., None]
    finite = covariance.isfinite().all(-1).all(-1)[..., None] & least.isfinite()
    shifted = covariance + torch.diag_embed(least.expand(*covariance.shape[:-1]))
    with one_thread():
        values, vectors = torch.linalg.eigh(shifted.where(finite[..., None], 0))
    logs = torch.maximum(values, least / 2).log()
    logarithm = (vectors * logs[..., None, :]) @ vectors.mT
    rows, columns = torch.triu_indices(size, size, device=covariance.device)
    weights = torch.where(rows == columns, 1.0, math.sqrt(2))
    triangle: Tensor = logarithm[..., rows, columns] * weights
    return triangle.where(finite, torch.nan).float()


@contextmanager
def one_thread() -> Iterator[None]:
    """Limit torch on a CPU to one thread within the block, in the calling thread.

    Eigendecompositions of matrices as small as these are many times slower on several threads.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


Span = tuple[int, int]
"""First position and the one after the last."""


@dataclass(frozen=True)
class Parts:
    """Rectangles of a grid: the whole, or the whole and its four corner quarters.

    Attributes:
        rows: rows of each part.
        columns: columns of each part.
    """

    rows: tuple[Span, ...]
    columns: tuple[Span, ...]

    @classmethod
    def of(cls, height: int, width: int, quarter: tuple[int, int] | None) -> Parts:
        """Parts of a grid of that size; `quarter` is the height and width of a quarter."""
        rows, columns = ((0, height),), ((0, width),)
        if quarter is None:
            return cls(rows, columns)
        top, bottom = (0, quarter[0]), (height - quarter[0], height)
        left, right = (0, quarter[1]), (width - quarter[1], width)
        return cls((*rows, top, top, bottom, bottom), (*columns, left, right, left, right))

    def shrunk(self, rows: int, columns: int) -> Parts:
        """Each part with so many rows and columns less at its end."""
        return Parts(
            tuple((start, stop - rows) for start, stop in self.rows),
            tuple((start, stop - columns) for start, stop in self.columns),
        )

    def cells(self) -> Iterator[tuple[Span, Span, list[int]]]:
        """Disjoint rectangles that cover the parts, each with the parts in which it lies."""
        for rows in _intervals(self.rows):
            for columns in _intervals(self.columns):
                owners = [
                    part
                    for part, spans in enumerate(zip(self.rows, self.columns, strict=True))
                    if _within(rows, spans[0]) and _within(columns, spans[1])
                ]
                if owners:
                    yield rows, columns, owners

    def __len__(self) -> int:
        return len(self.rows)


def _intervals(spans: tuple[Span, ...]) -> list[Span]:
    ends = sorted({end for span in spans for end in span})
    return list(pairwise(ends))


def _within(inner: Span, outer: Span) -> bool:
    return outer[0] <= inner[0] and inner[1] <= outer[1]


Vectors = Callable[[Span, Span], Float32[Tensor, "batch position value"]]
"""Gives the vectors at the positions of a rectangle of a grid, given by rows and columns."""


def part_covariances(vectors: Vectors, parts: Parts) -> Float64[Tensor, "batch part value value"]:
    """Covariances (divided by the count) of the vectors at the positions of each part.

    Each position enters one matrix product: sums over a part are sums over its cells. Products
    are in float32 and the rest in float64, so the vectors' mean should be small beside their
    deviation.
    """
    sums: dict[int, Tensor] = {}
    products: dict[int, Tensor] = {}
    for rows, columns, owners in parts.cells():
        found = vectors(rows, columns)
        product, total = (found.mT @ found).double(), found.sum(1).double()
        for part in owners:
            products[part] = products[part] + product if part in products else product
            sums[part] = sums[part] + total if part in sums else total
    counts = [
        (rows[1] - rows[0]) * (columns[1] - columns[0])
        for rows, columns in zip(parts.rows, parts.columns, strict=True)
    ]
    covariances = []
    for part, count in enumerate(counts):
        mean = sums[part] / count
        covariances.append(products[part] / count - mean[:, :, None] * mean[:, None, :])
    return torch.stack(covariances, dim=1)
