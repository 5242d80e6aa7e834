"""LatentTracer's row (b): a ResNet-18 on what autoencoders lose, x − D(E(x)).

The residuals of all autoencoders at hand are stacked as channels, in units of 8-bit values, on the
central native crop of 256; training takes random crops of 224 and flips. The adaptation and its
recipe (from scratch, Adam 1e-3, batch 64, at most 30 epochs, patience 5) are ours.
"""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
import timm
import torch
from jaxtyping import Float, Int8
from torch import Tensor, nn

from leakcache.store.array_store import Rows
from leaknet.baselines.autoencoders import Reconstructor, at_hand
from leaknet.baselines.fold_peers_frozen import count
from leaknet.baselines.fold_peers_joined import JoinedRows
from leaknet.baselines.fold_peers_reconstruction import NATIVE, measured
from leaknet.baselines.images import PeerImages
from leaknet.baselines.trained_network import NetworkPeer, Recipe

SIZE = 224
SCALE = 16.0
"""8-bit values that become 1 in the network's input: about what autoencoders lose."""


def residual(
    pixels: Float[Tensor, "image 3 side side"], autoencoder: Reconstructor
) -> Int8[Tensor, "image side side 3"]:
    """What is lost, x − D(E(x)), in 8-bit values, channels last, clipped to -127..127."""
    lost = (pixels - autoencoder.reconstruct(pixels)) * 127.5
    return lost.round().clamp(-127, 127).to(torch.int8).permute(0, 2, 3, 1)


class ResidualNetwork(nn.Module):
    """timm's ResNet-18 with as many input channels as there are residuals."""

    def __init__(self, channels: int, classes: int) -> None:
        super().__init__()
        self.trunk: Any = timm.create_model("resnet18", in_chans=channels, num_classes=0)
        self.classifier = nn.Linear(self.trunk.num_features, classes)

    def forward(
        self, x: Float[Tensor, "sample channel size size"]
    ) -> tuple[Float[Tensor, "sample 512"], Float[Tensor, "sample class"]]:
        """Pooled features and logits."""
        vectors = self.trunk(x)
        return vectors, self.classifier(vectors)


class LatentTracerResidual(NetworkPeer):
    """Row (b)."""

    name: ClassVar[str] = "latenttracer-residual"
    recipe = Recipe(learning_rate=1e-3, batch=64, epochs=30, patience=5)
    autoencoders: tuple[Reconstructor, ...]

    def build(self, classes: int) -> nn.Module:
        """The network, drawn anew; the autoencoders stay as they are."""
        self.autoencoders = at_hand(self.options.weights, self.options.device)
        return ResidualNetwork(3 * len(self.autoencoders), classes)

    @property
    def parameters(self) -> int:
        """Of the network and of the autoencoders."""
        return count(self.network) + sum(one.parameters for one in self.autoencoders)

    def rows(self, images: PeerImages) -> Rows:
        """Residuals of all autoencoders, side by side: (image, 1, side, side, channel)."""
        spec = ("residual", (1, NATIVE, NATIVE, 3), "int8")
        return JoinedRows(
            [
                measured(images, one, lambda *batch: residual(*batch)[:, None], spec)
                for one in self.autoencoders
            ]
        )

    def prepare(
        self,
        views: Int8[np.ndarray, "sample side side channel"],
        rng: np.random.Generator | None,
    ) -> Float[Tensor, "sample channel size size"]:
        """Random or central crop of 224, flip, channels first."""
        free = views.shape[1] - SIZE
        cut = np.empty((len(views), SIZE, SIZE, views.shape[3]), np.int8)
        for row, view in enumerate(views):
            top, left, mirrored = (free // 2, free // 2, 0)
            if rng is not None:
                top, left, mirrored = rng.integers(0, (free + 1, free + 1, 2)).tolist()
            part = view[top : top + SIZE, left : left + SIZE]
            cut[row] = part[:, ::-1] if mirrored else part
        return torch.from_numpy(cut).permute(0, 3, 1, 2).float() / SCALE
