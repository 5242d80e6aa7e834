"""Covariance of luma patches of 9×9 pixels, all of the same contrast.

Each patch is divided by its root mean square before it counts. So edges do not outweigh the rest:
what is left is how neighbouring pixels depend on one another wherever in the picture they lie (the
spatial sign covariance: Visuri, Koivunen and Oja, "Sign and rank covariance matrices", 2000).
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Float32, UInt8

from leakcache.statistics.patch_covariance import length, log_covariance
from leakcache.statistics.planes import luma_chroma

LENGTH = length(81)
LEAST_CONTRAST = 1.0
"""Grey levels: patches flatter than this are divided by this, as rounding is all they hold."""


def normalised_luma(
    view: UInt8[np.ndarray, "height width 3"],
) -> Float32[np.ndarray, " value"]:
    """Log-covariance of 9×9 patches of luma, each without its mean, of unit root mean square."""
    return log_covariance(luma_chroma(view)[:1], 9, contrast=LEAST_CONTRAST)
