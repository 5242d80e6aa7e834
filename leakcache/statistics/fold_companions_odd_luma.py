"""Covariance of luma patches of 7×7 pixels of one contrast, from the odd rows and columns.

The other families of patches start on even ones. Decoders double the size of their maps again and
again, and JPEG halves that of chroma, so that patches of either kind depend on their neighbours in
other ways.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Float32, UInt8

from leakcache.statistics.patch_covariance import length, log_covariance
from leakcache.statistics.planes import luma_chroma

SIDE = 7
LENGTH = length(SIDE**2)
LEAST_CONTRAST = 4.0
"""Grey levels: patches flatter than this are divided by this."""


def odd_luma(
    view: UInt8[np.ndarray, "height width 3"],
) -> Float32[np.ndarray, " value"]:
    """Log-covariance of the patches, each without its mean, of unit root mean square."""
    return log_covariance(luma_chroma(view)[:1, 1:, 1:], SIDE, contrast=LEAST_CONTRAST)
