"""Matrix logarithms of covariances as vectors, in batches.

The matrix logarithm maps covariances to a flat space (log-Euclidean metric: Arsigny et al.,
"Log-Euclidean metrics for fast and simple calculus on diffusion tensors", 2006): directions in
which values hardly vary, where generators differ, weigh as much as those in which they vary most.
"""

from __future__ import annotations

import math

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
    values, vectors = torch.linalg.eigh(shifted.where(finite[..., None], 0))
    logs = torch.maximum(values, least / 2).log()
    logarithm = (vectors * logs[..., None, :]) @ vectors.mT
    rows, columns = torch.triu_indices(size, size, device=covariance.device)
    weights = torch.where(rows == columns, 1.0, math.sqrt(2))
    triangle: Tensor = logarithm[..., rows, columns] * weights
    return triangle.where(finite, torch.nan).float()
