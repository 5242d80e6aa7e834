"""NPR (arXiv 2312.10461): a small ResNet on the residual of nearest-neighbour down-up-sampling.

Two rows: native crops, and resized pixels, where most of the trace is lost. Crops start on even
pixels, which keeps 2×2 blocks whole. Trained from scratch: Adam 2e-4, batch 32, 50 epochs, rate
× 0.9 every 10. The K-way classifier, two crops per image and the selection of the epoch on
validation data are ours.
"""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from leakcache.columns.table import CROPS, RESIZED
from leaknet.baselines.freqnet import residual_trunk
from leaknet.baselines.trained_network import PixelNetwork, Recipe, step_decay


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
    """The row on native crops."""

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
