"""Covariances of small patches as vectors in which differences count at every scale.

The matrix logarithm maps covariances to a flat space (log-Euclidean metric: Arsigny et al.,
"Log-Euclidean metrics for fast and simple calculus on diffusion tensors", 2006): directions in
which patches hardly vary, where generators differ, weigh as much as those in which they vary most.
"""

from __future__ import annotations

import math

import numpy as np
from jaxtyping import Float32, Float64, UInt8

from leakcache.statistics.planes import luma_chroma, residuals

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


# Covariance of RGB patches of 3×3 pixels: how colours depend on their neighbours.
#
# Demosaicing-like correlations that a decoder's last convolution leaves between channels and
# neighbours (Popescu and Farid, "Exposing digital forgeries in color filter array interpolated
# images", 2005, for cameras).

LENGTH = length(27)


def colour_covariance(
    view: UInt8[np.ndarray, "height width 3"],
) -> Float32[np.ndarray, " value"]:
    """Log-covariance of 3×3 patches of all three colours, each without its mean."""
    planes = np.ascontiguousarray(view.transpose(2, 0, 1), np.float32)
    return log_covariance(planes, 3)


# Covariance of luma patches of 7×7 pixels: linear dependence up to six pixels away.
#
# The second-order statistics from which linear prediction residuals follow (Gallagher and Chen,
# "Image authentication by detecting traces of demosaicing", 2008; Fridrich and Kodovský, "Rich
# models for steganalysis of digital images", 2012).

LENGTH_LUMA_COVARIANCE = length(49)


def luma_covariance(
    view: UInt8[np.ndarray, "height width 3"],
) -> Float32[np.ndarray, " value"]:
    """Log-covariance of 7×7 patches of luma, each without its mean."""
    return log_covariance(luma_chroma(view)[:1], 7)


# Covariance of luma patches of 9×9 pixels, all of the same contrast.
#
# Each patch is divided by its root mean square before it counts. So edges do not outweigh the rest:
# what is left is how neighbouring pixels depend on one another wherever in the picture they lie
# (the
# spatial sign covariance: Visuri, Koivunen and Oja, "Sign and rank covariance matrices", 2000).

LENGTH_NORMALISED_LUMA = length(81)
LEAST_CONTRAST = 1.0
"""Grey levels: patches flatter than this are divided by this, as rounding is all they hold."""


def normalised_luma(
    view: UInt8[np.ndarray, "height width 3"],
) -> Float32[np.ndarray, " value"]:
    """Log-covariance of 9×9 patches of luma, each without its mean, of unit root mean square."""
    return log_covariance(luma_chroma(view)[:1], 9, contrast=LEAST_CONTRAST)


# Covariance of 7×7 patches of luma's high-pass residual, all of the same contrast.
#
# As `normalised_luma`, but contrast is that of the finest detail alone: a smooth gradient and a
# flat
# wall weigh alike, and what a denoiser would take for noise speaks loudest.

LENGTH_NORMALISED_RESIDUAL = length(49)
LIMIT = 20.0
LEAST_CONTRAST_NORMALISED_RESIDUAL = 0.5
"""Grey levels, of the residual."""


def normalised_residual(
    view: UInt8[np.ndarray, "height width 3"],
) -> Float32[np.ndarray, " value"]:
    """Log-covariance of 7×7 residual patches, each without its mean, of unit root mean square."""
    found = residuals(luma_chroma(view)[:1], LIMIT)
    return log_covariance(found, 7, contrast=LEAST_CONTRAST_NORMALISED_RESIDUAL)


# Covariance of luma patches of 7×7 pixels of one contrast, from the odd rows and columns.
#
# The other families of patches start on even ones. Decoders double the size of their maps again and
# again, and JPEG halves that of chroma, so that patches of either kind depend on their
# neighbours in
# other ways.

SIDE = 7
LENGTH_ODD_LUMA = length(SIDE**2)
LEAST_CONTRAST_ODD_LUMA = 4.0
"""Grey levels: patches flatter than this are divided by this."""


def odd_luma(
    view: UInt8[np.ndarray, "height width 3"],
) -> Float32[np.ndarray, " value"]:
    """Log-covariance of the patches, each without its mean, of unit root mean square."""
    return log_covariance(luma_chroma(view)[:1, 1:, 1:], SIDE, contrast=LEAST_CONTRAST_ODD_LUMA)
