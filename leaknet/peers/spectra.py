"""FreqNet's layers: high-pass filters over space and channels, convolutions of the spectrum."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F


def spatial_high_pass(
    x: Float[Tensor, "batch channel height width"],
) -> Float[Tensor, "batch channel height width"]:
    """What is left of each map without the middle half of its spectrum, negatives cut off."""
    spectrum = torch.fft.fftshift(torch.fft.fft2(x, norm="ortho"), dim=(-2, -1))
    keep = torch.ones(x.shape[-2:], dtype=x.dtype, device=x.device)
    keep[_middle(x.shape[-2]), _middle(x.shape[-1])] = 0
    passed = torch.fft.ifftshift(spectrum * keep, dim=(-2, -1))
    return F.relu(torch.fft.ifft2(passed, norm="ortho").real)


def channel_high_pass(
    x: Float[Tensor, "batch channel height width"],
) -> Float[Tensor, "batch channel height width"]:
    """The same along the channels of each pixel."""
    spectrum = torch.fft.fftshift(torch.fft.fft(x, dim=1, norm="ortho"), dim=1)
    keep = torch.ones(x.shape[1], dtype=x.dtype, device=x.device)
    keep[_middle(x.shape[1])] = 0
    passed = torch.fft.ifftshift(spectrum * keep.view(1, -1, 1, 1), dim=1)
    return F.relu(torch.fft.ifft(passed, dim=1, norm="ortho").real)


def _middle(length: int) -> slice:
    return slice(length // 2 - length // 4, length // 2 + length // 4)


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
        spectrum = torch.fft.fft2(x, norm="ortho")
        mixed = torch.complex(self.real(spectrum.real), self.imaginary(spectrum.imag))
        return F.relu(torch.fft.ifft2(mixed, norm="ortho").real)
