"""Covariance of 7×7 patches of luma's high-pass residual, all of the same contrast.

As `normalised_luma`, but contrast is that of the finest detail alone: a smooth gradient and a flat
wall weigh alike, and what a denoiser would take for noise speaks loudest.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Float32, UInt8

from leakcache.statistics.patch_covariance import length, log_covariance
from leakcache.statistics.planes import luma_chroma, residuals

LENGTH = length(49)
LIMIT = 20.0
LEAST_CONTRAST = 0.5
"""Grey levels, of the residual."""


def normalised_residual(
    view: UInt8[np.ndarray, "height width 3"],
) -> Float32[np.ndarray, " value"]:
    """Log-covariance of 7×7 residual patches, each without its mean, of unit root mean square."""
    found = residuals(luma_chroma(view)[:1], LIMIT)
    return log_covariance(found, 7, contrast=LEAST_CONTRAST)
