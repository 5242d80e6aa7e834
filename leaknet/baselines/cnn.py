"""The CNNs of WILD on resized pixels: EfficientNet-B4, Xception, ResNet-50 (timm).

Fine-tuned as reported for ResNet-50 on WILD: Adam, 1e-4, batch 128, at most 30 epochs, patience 5.
Views are slightly larger than the network's input; training uses random crops and flips,
evaluation the central crop. The rows from scratch, with a higher rate and longer patience, are
ours.
"""

from __future__ import annotations

from typing import Any, ClassVar

import timm
from jaxtyping import Float
from torch import Tensor, nn

from leakcache.columns.table import Views
from leakcache.images.preprocess import Preprocessing
from leaknet.baselines.trained_network import PixelNetwork, Recipe
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
    """A timm network on resized pixels.

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
