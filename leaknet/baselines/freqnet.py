"""FreqNet (arXiv 2403.07240): a small CNN on high frequencies of pixels and of features.

Input: shorter side 256, random crop of 224 and flip, ImageNet standardisation. Trained from
scratch: Adam 1e-3, batch 32, 85 epochs, rate × 0.8 every 10. The K-way classifier, the central
crop in evaluation and the selection of the epoch on validation data are ours.

Implementation: a real map's spectrum is determined by its half, and the real part of a masked
spectrum equals that of the mask averaged with its mirror image. So real transforms suffice, and
one matrix over the few channels. Transforms run in fp32 even under autocast.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from timm.models.resnet import Bottleneck, ResNet
from torch import Tensor, nn
from torch.nn import functional as F

from leaknet.baselines.trained_network import PixelNetwork, Recipe, step_decay

Maps = Float[Tensor, "batch channel height width"]


def spatial_high_pass(x: Maps) -> Maps:
    """ReLU of each map without the lowest half of its spectrum along each axis."""
    height, width = x.shape[-2:]
    low = torch.outer(_middle(height, x), _middle(width, x))
    mirrored = low.flip(0, 1).roll((1, 1), (0, 1))
    keep = 1 - (low + mirrored)[:, : width // 2 + 1] / 2
    spectrum = torch.fft.rfft2(_wide(x), norm="ortho")
    return F.relu(torch.fft.irfft2(spectrum * keep, s=(height, width), norm="ortho"))


def channel_high_pass(x: Maps) -> Maps:
    """The same along the channels of each pixel."""
    channels = x.shape[1]
    keep = 1 - _middle(channels, x)
    unit = torch.diag(torch.ones_like(keep))
    passed = torch.fft.ifft(torch.fft.fft(unit, dim=0) * keep[:, None], dim=0).real
    return F.relu(F.conv2d(x, passed[:, :, None, None]))


def _middle(length: int, like: Tensor) -> Float[Tensor, "length"]:
    """Mask of the lowest half of the frequencies, in the order of the FFT."""
    half = torch.zeros(length, dtype=_wide(like[:0]).dtype, device=like.device)
    half[length // 2 - length // 4 : length // 2 + length // 4] = 1
    ordered: Tensor = torch.fft.ifftshift(half)
    return ordered


def _wide(x: Tensor) -> Tensor:
    return x.to(torch.promote_types(x.dtype, torch.float32))


class SpectralConv(nn.Module):
    """1×1 convolutions of the real and the imaginary part of a map's spectrum."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.real = nn.Conv2d(channels, channels, 1, bias=False)
        self.imaginary = nn.Conv2d(channels, channels, 1, bias=False)

    def forward(self, x: Maps) -> Maps:
        """ReLU of the inverse transform."""
        spectrum = torch.fft.rfft2(_wide(x), norm="ortho")
        mixed = torch.complex(
            self.real(spectrum.real).float(), self.imaginary(spectrum.imag).float()
        )
        return F.relu(torch.fft.irfft2(mixed, s=x.shape[-2:], norm="ortho"))


class FreqNetwork(nn.Module):
    """1.855 M parameters for ten classes."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        trunk = residual_trunk()
        self.lift = nn.Conv2d(3, 64, 1)
        self.lifted = SpectralConv(64)
        self.shrink = nn.Conv2d(64, 64, 1, stride=2)
        self.shrunk = SpectralConv(64)
        self.pool = nn.MaxPool2d(3, stride=2, padding=1)
        self.layer1 = trunk.layer1
        self.widen = nn.Conv2d(256, 256, 1)
        self.widened = SpectralConv(256)
        self.halve = nn.Conv2d(256, 256, 1, stride=2)
        self.halved = SpectralConv(256)
        self.layer2 = trunk.layer2
        self.classifier = nn.Linear(512, classes)

    def forward(
        self, x: Float[Tensor, "sample 3 size size"]
    ) -> tuple[Float[Tensor, "sample 512"], Float[Tensor, "sample class"]]:
        """Pooled features and logits."""
        x = F.relu(self.lift(spatial_high_pass(x)))
        x = self.lifted(channel_high_pass(x))
        x = F.relu(self.shrink(spatial_high_pass(x)))
        x = self.shrunk(channel_high_pass(x))
        x = self.layer1(self.pool(x))
        x = self.widened(F.relu(self.widen(spatial_high_pass(x))))
        x = self.halved(F.relu(self.halve(spatial_high_pass(x))))
        vectors = self.layer2(x).mean(dim=(-2, -1))
        return vectors, self.classifier(vectors)


def residual_trunk() -> ResNet:
    """ResNet-50 up to its second stage (512 channels), residual branches not zero-initialised."""
    return ResNet(Bottleneck, (3, 4), channels=(64, 128), num_classes=0, zero_init_last=False)


class FreqNet(PixelNetwork):
    """The row of FreqNet."""

    name = "freqnet"
    recipe = Recipe(learning_rate=1e-3, batch=32, epochs=85, rate=step_decay(0.8, 10))

    def build(self, classes: int) -> nn.Module:
        """The network, randomly initialised."""
        return FreqNetwork(classes)
