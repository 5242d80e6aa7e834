"""Networks trained on pixels: the CNNs of WILD, NPR, FreqNet, SuSy."""

from __future__ import annotations

import io
from typing import Any, ClassVar

import numpy as np
import timm
import torch
from jaxtyping import Float, UInt8
from PIL import Image, ImageFilter
from timm.models.resnet import BasicBlock, Bottleneck, ResNet
from torch import Tensor, nn
from torch.nn import functional as F

from leakcache.images.preprocess import Preprocessing
from leakcache.store.columns import CROPS, RESIZED, ContrastTiles, Views
from leaknet.baselines.trained_network import (
    PixelNetwork,
    Recipe,
    flipped,
    standardised,
    step_decay,
)
from leaknet.baselines.weights import pretrained

TUNED = Recipe(learning_rate=1e-4, batch=128, epochs=30, patience=5)
SCRATCH = Recipe(learning_rate=1e-3, batch=128, epochs=60, patience=10)


class PooledFeatures(nn.Module):
    """A timm network that also returns its classifier's input."""

    def __init__(self, network: Any) -> None:
        super().__init__()
        self.network = network

    def forward(
        self, x: Float[Tensor, "sample 3 size size"]
    ) -> tuple[Float[Tensor, "sample dimension"], Float[Tensor, "sample class"]]:
        """Pooled features before the classifier, and logits."""
        vectors = self.network.forward_head(self.network.forward_features(x), pre_logits=True)
        return vectors, self.network.get_classifier()(vectors)


class PixelBackbone(PixelNetwork):
    """A timm network on resized pixels: a CNN of WILD.

    Fine-tuned as reported for ResNet-50 on WILD: Adam, 1e-4, batch 128, at most 30 epochs, patience
    5. Views are slightly larger than the network's input; training uses random crops and flips,
    evaluation the central crop. The rows from scratch, with a higher rate and longer patience, are
    ours.

    Attributes:
        model: timm's name.
        weights: whether training starts from pretrained weights.
    """

    recipe = TUNED
    model: ClassVar[str]
    weights: ClassVar[bool] = True

    def build(self, classes: int) -> nn.Module:
        """The network with a linear classifier."""
        if self.weights:
            return PooledFeatures(pretrained(self.model, classes, self.options.weights))
        return PooledFeatures(timm.create_model(self.model, num_classes=classes))

    @property
    def colours(self) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """Those of the pretrained weights."""
        settings = timm.get_pretrained_cfg(self.model)
        return settings.mean, settings.std


class EfficientNetB4(PixelBackbone):
    """EfficientNet-B4 at 380."""

    name = "efficientnet-b4"
    model = "efficientnet_b4"
    cut = Views(Preprocessing("resize", 384))
    size = 380
    at_once = 8


class Xception(PixelBackbone):
    """Xception at 299."""

    name = "xception"
    model = "legacy_xception"
    cut = Views(Preprocessing("resize", 304))
    size = 299
    at_once = 16


class ResNet50(PixelBackbone):
    """ResNet-50 at 224."""

    name = "resnet50"
    model = "resnet50"


class EfficientNetB4Scratch(EfficientNetB4):
    """From scratch."""

    name = "efficientnet-b4-scratch"
    recipe = SCRATCH
    weights = False


class XceptionScratch(Xception):
    """From scratch."""

    name = "xception-scratch"
    recipe = SCRATCH
    weights = False


class ResNet50Scratch(ResNet50):
    """From scratch."""

    name = "resnet50-scratch"
    recipe = SCRATCH
    weights = False


def neighbour_residual(
    x: Float[Tensor, "batch channel height width"],
) -> Float[Tensor, "batch channel height width"]:
    """(x − up₂(down₂(x))) · 2/3, nearest neighbour both ways; height and width even."""
    halved = F.interpolate(x, scale_factor=0.5, mode="nearest")
    return (x - F.interpolate(halved, scale_factor=2.0, mode="nearest")) * (2 / 3)


class NeighbourNetwork(nn.Module):
    """1.442 M parameters for ten classes."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        trunk = residual_trunk()
        self.stem = nn.Conv2d(3, 64, 3, stride=2, padding=1, bias=False)
        nn.init.kaiming_normal_(self.stem.weight, mode="fan_out", nonlinearity="relu")
        self.norm = nn.BatchNorm2d(64)
        self.pool = nn.MaxPool2d(3, stride=2, padding=1)
        self.layers = nn.Sequential(trunk.layer1, trunk.layer2)
        self.classifier = nn.Linear(512, classes)

    def forward(
        self, x: Float[Tensor, "sample 3 size size"]
    ) -> tuple[Float[Tensor, "sample 512"], Float[Tensor, "sample class"]]:
        """Pooled features and logits."""
        x = F.relu(self.norm(self.stem(neighbour_residual(x))))
        vectors = self.layers(self.pool(x)).mean(dim=(-2, -1))
        return vectors, self.classifier(vectors)


class NPR(PixelNetwork):
    """NPR (arXiv 2312.10461): a small ResNet on the residual of nearest-neighbour resampling.

    Two rows: native crops, and resized pixels, where most of the trace is lost. Crops start on even
    pixels, which keeps 2×2 blocks whole. Trained from scratch: Adam 2e-4, batch 32, 50 epochs, rate
    × 0.9 every 10. The K-way classifier, two crops per image and the selection of the epoch on
    validation data are ours.
    """

    name = "npr"
    cut = CROPS
    grid = 2
    recipe = Recipe(learning_rate=2e-4, batch=32, epochs=50, rate=step_decay(0.9, 10))

    def build(self, classes: int) -> nn.Module:
        """The network, randomly initialised."""
        return NeighbourNetwork(classes)


class NPRResized(NPR):
    """The row on resized pixels."""

    name = "npr-resized"
    cut = RESIZED


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
    """FreqNet (arXiv 2403.07240): a small CNN on high frequencies of pixels and of features.

    Input: shorter side 256, random crop of 224 and flip, ImageNet standardisation. Trained from
    scratch: Adam 1e-3, batch 32, 85 epochs, rate × 0.8 every 10. The K-way classifier, the central
    crop in evaluation and the selection of the epoch on validation data are ours.

    Implementation: a real map's spectrum is determined by its half, and the real part of a masked
    spectrum equals that of the mask averaged with its mirror image. So real transforms suffice, and
    one matrix over the few channels. Transforms run in fp32 even under autocast.
    """

    name = "freqnet"
    recipe = Recipe(learning_rate=1e-3, batch=32, epochs=85, rate=step_decay(0.8, 10))

    def build(self, classes: int) -> nn.Module:
        """The network, randomly initialised."""
        return FreqNetwork(classes)


PROBABILITY = 0.2
"""Of each of blur, gamma and JPEG, independently."""
BLUR, GAMMA, QUALITY = (0.1, 1.0), (0.8, 1.2), (70, 95)


class SusyNetwork(nn.Module):
    """12.15 M parameters for ten classes."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        trunk = ResNet(BasicBlock, (2, 2, 2, 2), num_classes=0, zero_init_last=False)
        self.stem = nn.Sequential(trunk.conv1, trunk.bn1, trunk.act1, trunk.maxpool)
        self.layers = nn.ModuleList([trunk.layer1, trunk.layer2, trunk.layer3, trunk.layer4])
        self.taps = nn.ModuleList([downsampling(width) for width in (64, 64, 128, 256)])
        self.head = nn.Sequential(*_hidden(512, 256), *_hidden(256, 256))
        self.classifier = nn.Linear(256, classes)

    def forward(
        self, x: Float[Tensor, "sample 3 size size"]
    ) -> tuple[Float[Tensor, "sample 256"], Float[Tensor, "sample class"]]:
        """Last hidden layer and logits."""
        x = self.stem(x)
        total: Tensor | float = 0.0
        for layer, tap in zip(self.layers, self.taps, strict=True):
            total = total + tap(x)
            x = layer(x)
        vectors = self.head((total + x).mean(dim=(-2, -1)))
        return vectors, self.classifier(vectors)


def downsampling(width: int, target: int = 512) -> nn.Sequential:
    """Linear bottlenecks, each halving a map's sides and doubling its width, up to `target`."""
    stages: list[nn.Module] = []
    while width < target:
        stages += _bottleneck(width)
        width *= 2
    return nn.Sequential(*stages)


def _bottleneck(width: int) -> list[nn.Module]:
    quarter, half, double = width // 4, width // 2, width * 2
    return [
        nn.Conv2d(width, quarter, 1),
        nn.BatchNorm2d(quarter),
        nn.Conv2d(quarter, half, 3, stride=2, padding=1),
        nn.BatchNorm2d(half),
        nn.Conv2d(half, double, 1),
        nn.BatchNorm2d(double),
    ]


def _hidden(width: int, target: int) -> tuple[nn.Module, ...]:
    return nn.Linear(width, target), nn.ReLU(), nn.Dropout(0.5)


class SuSy(PixelNetwork):
    """SuSy (arXiv 2409.14128): all stages of a ResNet-18, on the tiles of most contrast.

    Five native tiles of 224 per image; cross-entropy per tile, mean probabilities per image. Adam
    1e-4, batch 128, at most 30 epochs, patience 3. Here from scratch, without pretrained weights.
    The paper does not state which convolutions have biases and norms: both everywhere gives the
    published number of parameters. The ranges of the augmentations are ours.
    """

    name = "susy"
    cut = ContrastTiles(224, 5)
    recipe = Recipe(learning_rate=1e-4, batch=128, epochs=30, patience=3)

    def build(self, classes: int) -> nn.Module:
        """The network, randomly initialised."""
        return SusyNetwork(classes)

    def prepare(
        self, views: UInt8[np.ndarray, "sample side side 3"], rng: np.random.Generator | None
    ) -> Float[Tensor, "sample 3 side side"]:
        """Pixels in [0, 1]; in training flipped, with random blur, gamma and JPEG."""
        if rng is not None:
            views = np.stack([_augmented(view, rng) for view in flipped(views, rng)])
        return standardised(views, (0.0,) * 3, (1.0,) * 3)


def _augmented(
    view: UInt8[np.ndarray, "side side 3"], rng: np.random.Generator
) -> UInt8[np.ndarray, "side side 3"]:
    image = Image.fromarray(view)
    blur, gamma, jpeg = rng.random(3) < PROBABILITY
    if blur:
        image = image.filter(ImageFilter.GaussianBlur(rng.uniform(*BLUR)))
    if gamma:
        curve = np.rint(255 * (np.arange(256) / 255) ** rng.uniform(*GAMMA)).astype(int).tolist()
        image = image.point(curve * 3)
    if jpeg:
        buffer = io.BytesIO()
        image.save(buffer, "JPEG", quality=int(rng.integers(QUALITY[0], QUALITY[1] + 1)))
        image = Image.open(buffer)
    return np.asarray(image)
