"""SuSy (arXiv 2409.14128): features of all stages of a ResNet-18, on the tiles of most contrast.

Five native tiles of 224 per image; cross-entropy per tile, mean probabilities per image. Adam
1e-4, batch 128, at most 30 epochs, patience 3. Here from scratch, without pretrained weights. The
paper does not state which convolutions have biases and norms: both everywhere gives the published
number of parameters. The ranges of the augmentations are ours.
"""

from __future__ import annotations

import io

import numpy as np
from jaxtyping import Float, UInt8
from PIL import Image, ImageFilter
from timm.models.resnet import BasicBlock, ResNet
from torch import Tensor, nn

from leakcache.columns.table import ContrastTiles
from leaknet.baselines.trained_network import PixelNetwork, Recipe, flipped, standardised

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
    """The row of SuSy."""

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
