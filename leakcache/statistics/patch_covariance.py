"""Covariances of small patches as vectors in which differences count at every scale.

The matrix logarithm maps covariances to a flat space (log-Euclidean metric: Arsigny et al.,
"Log-Euclidean metrics for fast and simple calculus on diffusion tensors", 2006): directions in
which patches hardly vary, where generators differ, weigh as much as those in which they vary most.
"""

from __future__ import annotations

import math

import numpy as np
from jaxtyping import Float32, Float64

STRIDE = 2
"""Every other row and column of patches: a quarter of the work, and hardly less information."""
FLOOR = 1e-2
"""Added to every variance, so that a blank view has a logarithm; below that of rounding, 1/12."""
NORMALISED_FLOOR = 1e-4
"""The same for patches of unit contrast."""


def length(values: int) -> int:
    """Entries of the vector for patches of so many values: a triangle with its diagonal."""
    return values * (values + 1) // 2


def log_covariance(
    planes: Float32[np.ndarray, "plane height width"],
    side: int,
    contrast: float | None = None,
) -> Float32[np.ndarray, " entry"]:
    """`log_triangle` of the covariance of patches, each less its own mean.

    Args:
        planes: at least `side` high and wide.
        side: of a patch, which reaches over all planes.
        contrast: each patch is divided by its root mean square, or by this where that is less;
            None for patches as they are.
    """
    patches = _patches(planes, side)
    patches -= patches.mean(axis=0)
    if contrast is not None:
        patches /= np.maximum(np.sqrt(np.square(patches).mean(axis=0)), contrast)
    patches -= patches.mean(axis=1, keepdims=True)
    matrix = (patches @ patches.T).astype(np.float64) / patches.shape[1]
    return log_triangle(matrix, FLOOR if contrast is None else NORMALISED_FLOOR)


def log_triangle(
    covariance: Float64[np.ndarray, "value value"], floor: float
) -> Float32[np.ndarray, " entry"]:
    """Upper triangle of log(C + floor · I), those beside the diagonal times √2.

    So distances of vectors are those of matrices.
    """
    values, vectors = np.linalg.eigh(covariance + floor * np.eye(len(covariance)))
    logarithm = (vectors * np.log(np.maximum(values, floor / 2))) @ vectors.T
    rows, columns = np.triu_indices(len(covariance))
    weights = np.where(rows == columns, 1, math.sqrt(2))
    found: np.ndarray = weights * logarithm[rows, columns]
    return found.astype(np.float32)


def _patches(
    planes: Float32[np.ndarray, "plane height width"], side: int
) -> Float32[np.ndarray, "value patch"]:
    height, width = planes.shape[1] - side + 1, planes.shape[2] - side + 1
    shifted = [
        plane[y : y + height : STRIDE, x : x + width : STRIDE].ravel()
        for plane in planes
        for y in range(side)
        for x in range(side)
    ]
    return np.stack(shifted)
