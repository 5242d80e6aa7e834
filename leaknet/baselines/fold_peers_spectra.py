"""FreqNet's layers: high-pass filters over space and channels, convolutions of the spectrum.

A real map's spectrum is known from its half, and the real part of what a mask leaves is what the
mean of the mask and its mirror image leaves: so half transforms do, and over channels, which are
few, one matrix. Transforms are computed in fp32 even under autocast: not every device has less.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F


def spatial_high_pass(
    x: Float[Tensor, "batch channel height width"],
) -> Float[Tensor, "batch channel height width"]:
    """What is left of each map without the middle half of its spectrum, negatives cut off."""
    height, width = x.shape[-2:]
    low = torch.outer(_middle(height, x), _middle(width, x))
    mirrored = low.flip(0, 1).roll((1, 1), (0, 1))
    keep = 1 - (low + mirrored)[:, : width // 2 + 1] / 2
    spectrum = torch.fft.rfft2(_wide(x), norm="ortho")
    return F.relu(torch.fft.irfft2(spectrum * keep, s=(height, width), norm="ortho"))


def channel_high_pass(
    x: Float[Tensor, "batch channel height width"],
) -> Float[Tensor, "batch channel height width"]:
    """The same along the channels of each pixel."""
    channels = x.shape[1]
    keep = 1 - _middle(channels, x)
    unit = torch.diag(torch.ones_like(keep))
    passed = torch.fft.ifft(torch.fft.fft(unit, dim=0) * keep[:, None], dim=0).real
    return F.relu(F.conv2d(x, passed[:, :, None, None]))


def _middle(length: int, like: Tensor) -> Float[Tensor, "length"]:
    """One at the lowest half of the frequencies, in the transform's own order."""
    half = torch.zeros(length, dtype=_wide(like[:0]).dtype, device=like.device)
    half[length // 2 - length // 4 : length // 2 + length // 4] = 1
    ordered: Tensor = torch.fft.ifftshift(half)
    return ordered


def _wide(x: Tensor) -> Tensor:
    return x.to(torch.promote_types(x.dtype, torch.float32))


class SpectralConv(nn.Module):
    """1×1 convolutions of the real and of the imaginary part of a map's spectrum, then back."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.real = nn.Conv2d(channels, channels, 1, bias=False)
        self.imaginary = nn.Conv2d(channels, channels, 1, bias=False)

    def forward(
        self, x: Float[Tensor, "batch channel height width"]
    ) -> Float[Tensor, "batch channel height width"]:
        """Real part of the inverse transform, negatives cut off."""
        spectrum = torch.fft.rfft2(_wide(x), norm="ortho")
        mixed = torch.complex(
            self.real(spectrum.real).float(), self.imaginary(spectrum.imag).float()
        )
        return F.relu(torch.fft.irfft2(mixed, s=x.shape[-2:], norm="ortho"))
