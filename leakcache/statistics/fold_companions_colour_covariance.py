"""Covariance of RGB patches of 3×3 pixels: how colours depend on their neighbours.

Demosaicing-like correlations that a decoder's last convolution leaves between channels and
neighbours (Popescu and Farid, "Exposing digital forgeries in color filter array interpolated
images", 2005, for cameras).
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Float32, UInt8

from leakcache.statistics.patch_covariance import length, log_covariance

LENGTH = length(27)


def colour_covariance(
    view: UInt8[np.ndarray, "height width 3"],
) -> Float32[np.ndarray, " value"]:
    """Log-covariance of 3×3 patches of all three colours, each without its mean."""
    planes = np.ascontiguousarray(view.transpose(2, 0, 1), np.float32)
    return log_covariance(planes, 3)
