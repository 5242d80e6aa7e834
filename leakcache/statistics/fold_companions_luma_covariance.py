"""Covariance of luma patches of 7×7 pixels: linear dependence up to six pixels away.

The second-order statistics from which linear prediction residuals follow (Gallagher and Chen,
"Image authentication by detecting traces of demosaicing", 2008; Fridrich and Kodovský, "Rich
models for steganalysis of digital images", 2012).
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Float32, UInt8

from leakcache.statistics.patch_covariance import length, log_covariance
from leakcache.statistics.planes import luma_chroma

LENGTH = length(49)


def luma_covariance(
    view: UInt8[np.ndarray, "height width 3"],
) -> Float32[np.ndarray, " value"]:
    """Log-covariance of 7×7 patches of luma, each without its mean."""
    return log_covariance(luma_chroma(view)[:1], 7)
