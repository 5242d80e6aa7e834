"""FreqNet (arXiv 2403.07240): a small CNN that sees high frequencies of pixels and of features.

Input: shorter side 256, random crop of 224 and flip, ImageNet's standardisation. Trained from
scratch: Adam 1e-3, batch 32, 85 epochs, the rate times 0.8 every 10. The K-way classifier, the
central crop at evaluation and the choice of the epoch on validation data are ours.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Float, UInt8
from timm.models.resnet import Bottleneck, ResNet
from torch import Tensor, nn
from torch.nn import functional as F

from leakcache.store.array_store import Rows
from leakcache.store.views import RESIZED
from leaknet.baselines.augment import cropped, flipped, standardised
from leaknet.baselines.fold_peers_spectra import SpectralConv, channel_high_pass, spatial_high_pass
from leaknet.baselines.images import PeerImages
from leaknet.baselines.trained_network import NetworkPeer, Recipe, stepped

SIZE = 224


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
    """A ResNet-50 up to its second stage, 512 channels wide, residual branches open."""
    return ResNet(Bottleneck, (3, 4), channels=(64, 128), num_classes=0, zero_init_last=False)


class FreqNet(NetworkPeer):
    """FreqNet's row."""

    name = "freqnet"
    recipe = Recipe(learning_rate=1e-3, batch=32, epochs=85, rate=stepped(0.8, 10))

    def build(self, classes: int) -> nn.Module:
        """The network, drawn anew."""
        return FreqNetwork(classes)

    def rows(self, images: PeerImages) -> Rows:
        """Resized pixels."""
        return images.pixels(RESIZED)

    def prepare(
        self, views: UInt8[np.ndarray, "sample side side 3"], rng: np.random.Generator | None
    ) -> Float[Tensor, "sample 3 size size"]:
        """Crop of 224, flip, ImageNet's colours."""
        return standardised(flipped(cropped(views, SIZE, rng), rng))
