"""Means, counts and covariances over the positions of each part of a view.

What is computed at a position, a block or a patch, is computed once and enters every part that
holds it.

The matrix logarithm maps covariances to a flat space (log-Euclidean metric: Arsigny et al.,
"Log-Euclidean metrics for fast and simple calculus on diffusion tensors", 2006): directions in
which values hardly vary, where generators differ, weigh as much as those in which they vary most.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from jaxtyping import Float32, Float64, Int64, Integer
from torch import Tensor

from leakcache.statistics.rows import Parts, Span

CHUNK_BYTES = {"cpu": 2**20, "cuda": 2**28}
"""Vectors of one matrix product: on a CPU they stay in the cache of a core."""

Vectors = Callable[[Span, list[Span]], list[Float32[Tensor, "batch value position"]]]
"""Gives the vectors at the positions of some rows of a grid, a tensor for each span of columns."""


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
    values, vectors = torch.linalg.eigh(shifted.where(finite[..., None], 0))
    logs = torch.maximum(values, least / 2).log()
    logarithm = (vectors * logs[..., None, :]) @ vectors.mT
    rows, columns = torch.triu_indices(size, size, device=covariance.device)
    weights = torch.where(rows == columns, 1.0, math.sqrt(2))
    triangle: Tensor = logarithm[..., rows, columns] * weights
    return triangle.where(finite, torch.nan).float()
