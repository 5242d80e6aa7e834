"""Amplitudes of the 8×8 block DCT: how strong each frequency is, how often, how unevenly.

The statistics that tell generators apart in the DCT domain (Frank et al., "Leveraging frequency
analysis for deep fake image recognition", 2020), taken on the blocks of a JPEG file, whose
tables they also show: see docs/AUDIT.md and the canonical track.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Float32, UInt8

from leakcache.statistics.planes import amplitudes, luma_chroma

LENGTH = 3 * 3 * 64
LARGE = 4.0
RARE = 1e-2


def block_dct(view: UInt8[np.ndarray, "height width 3"]) -> Float32[np.ndarray, " value"]:
    """Per plane and frequency, over blocks, for Y, Cb and Cr.

    log(1 + mean |d|), log(share of |d| > 4, plus 1 %), and log(1 + RMS) - log(1 + mean |d|).
    """
    found = amplitudes(luma_chroma(view), 8)
    mean = np.log1p(found.mean(axis=1))
    often = np.log(RARE + (found > LARGE).mean(axis=1, dtype=np.float32))
    uneven = np.log1p(np.sqrt(np.square(found).mean(axis=1))) - mean
    return np.stack([mean, often, uneven], axis=1).ravel().astype(np.float32)
