"""Mean amplitudes of the 16×16 block DCT: a finer spectrum than that of 8×8 blocks.

Twice the block of JPEG and of the latent grid, so that patterns of period 8 stand out as
frequencies of their own (Frank et al., "Leveraging frequency analysis for deep fake image
recognition", 2020).
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Float32, UInt8

from leakcache.statistics.planes import amplitudes, luma_chroma

LENGTH = 3 * 256


def wide_dct(view: UInt8[np.ndarray, "height width 3"]) -> Float32[np.ndarray, " value"]:
    """log(1 + mean |d|) per plane and frequency, over blocks, for Y, Cb and Cr."""
    found = amplitudes(luma_chroma(view), 16)
    logs: np.ndarray = np.log1p(found.mean(axis=1)).ravel()
    return logs.astype(np.float32)
