"""What several families start from: luma and chroma, blocks and their DCT, residuals."""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Float32, UInt8

from leakcache.dct import dct_basis

# JFIF (ITU-R BT.601, full range) without the offset of chroma, which no family looks at.
_YCBCR = np.array(
    [
        [0.299, 0.587, 0.114],
        [-0.168735892, -0.331264108, 0.5],
        [0.5, -0.418687589, -0.081312411],
    ],
    np.float32,
)


def luma_chroma(
    view: UInt8[np.ndarray, "height width 3"],
) -> Float32[np.ndarray, "3 height width"]:
    """Y (0..255), Cb and Cr (-128..128) as planes, not rounded."""
    planes: Float32[np.ndarray, "3 height width"] = np.tensordot(
        _YCBCR, view.astype(np.float32), axes=(1, 2)
    )
    return planes


def amplitudes(
    planes: Float32[np.ndarray, "plane height width"], side: int
) -> Float32[np.ndarray, "plane block {side*side}"]:
    """|DCT-II| (orthonormal) of the whole blocks of `side` pixels, from the top left corner.

    A view starts on a multiple of 8, so that blocks of 8 are those of a JPEG file.
    """
    basis = dct_basis(side, torch.empty(0)).numpy()
    count, height, width = planes.shape
    rows, columns = height // side, width // side
    blocks = planes[:, : rows * side, : columns * side]
    blocks = blocks.reshape(count, rows, side, columns, side).transpose(0, 1, 3, 2, 4)
    found: np.ndarray = np.abs(basis @ blocks @ basis.T)
    return found.reshape(count, rows * columns, side * side)


def residuals(
    planes: Float32[np.ndarray, "plane height width"], limit: float
) -> Float32[np.ndarray, "plane height width"]:
    """Each pixel less the mean of its four neighbours, clipped to ±limit; edges are mirrored."""
    wide = np.pad(planes, ((0, 0), (1, 1), (1, 1)), mode="symmetric")
    around = wide[:, :-2, 1:-1] + wide[:, 2:, 1:-1] + wide[:, 1:-1, :-2] + wide[:, 1:-1, 2:]
    found: np.ndarray = np.clip(planes - around / 4, -limit, limit)
    return found
