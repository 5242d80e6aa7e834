"""Planes of views, from which pixel statistics start, and the orthonormal DCT-II.

Orthonormal, so white noise stays white and energy is kept (Parseval): what is known of
the moments of clean coefficients carries over to noisy ones in closed form.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property, lru_cache

import torch
from jaxtyping import Float, Float32, UInt8
from torch import Tensor

from leakcache.statistics.rows import GRID, Parts, pixel_parts


@lru_cache(maxsize=32)
def _cosines(length: int) -> Float[Tensor, "frequency position"]:
    frequency = torch.arange(length, dtype=torch.float64)[:, None]
    position = torch.arange(length, dtype=torch.float64)[None, :]
    angle = torch.pi * (position + 0.5) * frequency / length
    basis: Tensor = torch.cos(angle) * (2 / length) ** 0.5
    basis[0] /= 2**0.5
    return basis


def dct_basis(length: int, like: Tensor) -> Float[Tensor, "frequency position"]:
    """The orthonormal DCT-II matrix for signals of `length`, in the type and place of `like`."""
    return _cosines(length).to(device=like.device, dtype=like.dtype)


def dct_low(
    z: Float[Tensor, "*batch height width"], size: int
) -> Float[Tensor, "*batch size size"]:
    """First `size` × `size` coefficients of the orthonormal 2-D DCT-II of each channel.

    Raises:
        ValueError: `size` exceeds the height or the width.
    """
    height, width = z.shape[-2:]
    if not 1 <= size <= min(height, width):
        raise ValueError(
            f"dct size {size} does not fit {height}×{width}: take 1 to {min(height, width)}"
        )
    return dct_basis(height, z)[:size] @ z @ dct_basis(width, z)[:size].mT


def idct_low(
    coefficients: Float[Tensor, "*batch size size"], height: int, width: int
) -> Float[Tensor, "*batch {height} {width}"]:
    """The low-pass image whose low coefficients are given and whose others are zero."""
    size = coefficients.shape[-1]
    rows, columns = dct_basis(height, coefficients), dct_basis(width, coefficients)
    return rows[:size].mT @ coefficients @ columns[:size]


# JFIF (ITU-R BT.601, full range) without the offset of chroma, which no family reads.
_YCBCR = (
    (0.299, 0.587, 0.114),
    (-0.168735892, -0.331264108, 0.5),
    (0.5, -0.418687589, -0.081312411),
)


class Planes:
    """Luma and chroma of a batch of views of one size, and what is derived from them once.

    Attributes:
        luma_chroma: Y (0..255), Cb and Cr (-128..128), not rounded.
        parts: of the views, in pixels: the whole, or the whole and its quarters.
    """

    def __init__(self, views: UInt8[Tensor, "batch height width 3"], parts: int = 1) -> None:
        self.views = views
        self.luma_chroma = luma_chroma(views)
        self.parts: Parts = pixel_parts((views.shape[1], views.shape[2]), parts)

    @cached_property
    def amplitudes(self) -> Float32[Tensor, "batch row column 192"]:
        """|DCT| of blocks of 8 pixels, all frequencies of Y, then of Cb, then of Cr."""
        return amplitudes(self.luma_chroma, GRID)

    def of_each_part(
        self, function: Callable[[Float32[Tensor, "_ 3 _ _"]], Float32[Tensor, "_ value"]]
    ) -> Float32[Tensor, "batch part value"]:
        """A function of luma and chroma of each part by itself, quarters as one batch."""
        whole = function(self.luma_chroma)[:, None]
        quarters = [
            self.luma_chroma[:, :, slice(*rows), slice(*columns)]
            for rows, columns in list(self.parts)[1:]
        ]
        if not quarters:
            return whole
        found = function(torch.stack(quarters, 1).flatten(0, 1))
        return torch.cat([whole, found.reshape(-1, len(quarters), found.shape[1])], 1)


def luma_chroma(
    views: UInt8[Tensor, "batch height width 3"],
) -> Float32[Tensor, "batch 3 height width"]:
    """Y (0..255), Cb and Cr (-128..128) as planes, not rounded.

    Sums are rounded to float32 term by term as by fused multiply-adds, so that every device has
    the same values: co-occurrences count differences that lie half way between two steps.
    """
    colours = views.permute(3, 0, 1, 2).contiguous()
    single, double = colours.float(), colours.double()
    planes = []
    for red, green, blue in torch.tensor(_YCBCR, dtype=torch.float32).tolist():
        plane = (single[0] * red).double().add_(double[1], alpha=green).float()
        planes.append(plane.double().add_(double[2], alpha=blue).float())
    return torch.stack(planes, 1)


def amplitudes(
    planes: Float32[Tensor, "batch plane height width"], side: int
) -> Float32[Tensor, "batch row column value"]:
    """|DCT-II| (orthonormal) of the whole blocks of `side` pixels, from the top left corner.

    Values are the frequencies of the first plane, row by row, then those of the next. A view
    starts on a multiple of 8, so that blocks of 8 are those of a JPEG file.
    """
    basis = dct_basis(side, planes)
    rows, columns = (length // side for length in planes.shape[2:])
    batch, count = planes.shape[:2]
    whole = planes[..., : rows * side, : columns * side]
    across = whole.reshape(batch, count, rows * side, columns, side) @ basis.mT
    both: Tensor = basis @ across.reshape(batch, count, rows, side, columns * side)
    blocks = both.reshape(batch, count, rows, side, columns, side).permute(0, 2, 4, 1, 3, 5)
    return blocks.abs().flatten(3)


def residuals(
    planes: Float32[Tensor, "batch plane height width"], limit: float
) -> Float32[Tensor, "batch plane height width"]:
    """Each pixel less the mean of its four neighbours, clipped to ±limit; edges are mirrored."""
    wide = torch.nn.functional.pad(planes, (1, 1, 1, 1), mode="replicate")
    around = wide[..., :-2, 1:-1] + wide[..., 2:, 1:-1]
    around = around + wide[..., 1:-1, :-2] + wide[..., 1:-1, 2:]
    return (planes - around / 4).clamp(-limit, limit)
