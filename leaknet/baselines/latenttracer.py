"""LatentTracer (arXiv 2405.13360): reconstruction errors before and after latent inversion.

For each autoencoder, Adam optimises the latent from z = E(x) to minimise the mean square error of
D(z); images of the autoencoder's own generator reach a lower error. The published method assigns
one generator per autoencoder, which fails for closed autoencoders. Here logistic regression reads
the log errors before and after, over all available autoencoders: our K-way adaptation. The
learning rate, 0.01 for latents of about unit scale, is ours. Gradients are computed in bfloat16,
errors in float32, of values in [-1, 1].

`latenttracer-residual` is a ResNet-18 on the residuals x − D(E(x)) of all available autoencoders,
stacked as channels; the adaptation and its recipe are ours.
"""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
import timm
import torch
from jaxtyping import Float, Int8
from torch import Tensor, nn

from leakcache.store.source_images import Rows
from leaknet.baselines.autoencoders import Autoencoder, available_autoencoders
from leaknet.baselines.base import BaselineImages, ConcatenatedRows
from leaknet.baselines.reconstruction import (
    NATIVE,
    ReconstructionErrors,
    stored_measurements,
)
from leaknet.baselines.trained_network import Recipe, TrainedNetwork, cropped, flipped
from leaknet.baselines.weights import count

Crops = Float[Tensor, "image 3 side side"]

RATE = 0.01
SIZE = 224
SCALE = 16.0
"""8-bit residual that becomes 1 in the network's input: about the typical residual."""


def inversion_losses(
    pixels: Crops, autoencoder: Autoencoder, steps: int
) -> Float[Tensor, "image 2"]:
    """Mean square errors of D(E(x)) and of D(z) after `steps` of Adam on z alone."""
    latents = autoencoder.encode(pixels).detach()
    before = _errors(autoencoder, latents, pixels)
    latents.requires_grad_(True)
    optimiser = torch.optim.Adam([latents], lr=RATE)
    for _ in range(steps):
        optimiser.zero_grad()
        with torch.autocast(pixels.device.type, torch.bfloat16):
            decoded = autoencoder.decode(latents)
        # In a sum over images each latent's gradient is independent of the batch.
        loss = (decoded.float() - pixels).square().mean(dim=(1, 2, 3)).sum()
        loss.backward()  # type: ignore[no-untyped-call]
        optimiser.step()
    return torch.stack([before, _errors(autoencoder, latents.detach(), pixels)], dim=1)


@torch.no_grad()
def _errors(
    autoencoder: Autoencoder, latents: Float[Tensor, "image channel rows columns"], pixels: Crops
) -> Float[Tensor, "image"]:
    return (autoencoder.decode(latents) - pixels).square().mean(dim=(1, 2, 3))


class LatentTracer(ReconstructionErrors):
    """Errors before and after inversion.

    Attributes:
        steps: of Adam.
    """

    name: ClassVar[str] = "latenttracer"
    columns: ClassVar[int] = 2
    steps: ClassVar[int] = 100

    def errors(self, pixels: Crops, autoencoder: Autoencoder) -> Float[Tensor, "image 2"]:
        """Errors before and after inversion."""
        return inversion_losses(pixels, autoencoder, self.steps)

    @property
    def store_name(self) -> str:
        """Name with the number of steps."""
        return f"latenttracer-{self.steps}"

    @property
    def depends(self) -> dict[str, Any]:
        """Steps and learning rate."""
        return {"steps": self.steps, "rate": RATE}


class LatentTracerQuick(LatentTracer):
    """For CPUs: a tenth of the steps on a quarter of the pixels."""

    name = "latenttracer-quick"
    steps = 10
    side = 128


def residual(pixels: Crops, autoencoder: Autoencoder) -> Int8[Tensor, "image side side 3"]:
    """X − D(E(x)) in 8-bit units, channels last, clipped to [-127, 127]."""
    difference = (pixels - autoencoder.reconstruct(pixels)) * 127.5
    return difference.round().clamp(-127, 127).to(torch.int8).permute(0, 2, 3, 1)


class ResidualNetwork(nn.Module):
    """timm's ResNet-18 with three input channels per residual."""

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


class LatentTracerResidual(TrainedNetwork):
    """ResNet-18 on residuals: from scratch, random crops of 224 and flips."""

    name: ClassVar[str] = "latenttracer-residual"
    recipe = Recipe(learning_rate=1e-3, batch=64, epochs=30, patience=5)
    autoencoders: tuple[Autoencoder, ...]

    def build(self, classes: int) -> nn.Module:
        """The network, randomly initialised; the autoencoders stay frozen."""
        self.autoencoders = available_autoencoders(self.options.weights, self.options.device)
        return ResidualNetwork(3 * len(self.autoencoders), classes)

    @property
    def parameters(self) -> int:
        """Of the network and of the autoencoders."""
        return count(self.network) + sum(one.parameters for one in self.autoencoders)

    def rows(self, images: BaselineImages) -> Rows:
        """Residuals of all autoencoders, concatenated: (image, 1, side, side, channel)."""
        spec = ("residual", (1, NATIVE, NATIVE, 3), "int8")

        def measure(pixels: Crops, autoencoder: Autoencoder) -> Int8[Tensor, "image 1 side side 3"]:
            return residual(pixels, autoencoder)[:, None]

        return ConcatenatedRows(
            [stored_measurements(images, one, measure, spec) for one in self.autoencoders]
        )

    def prepare(
        self,
        views: Int8[np.ndarray, "sample side side channel"],
        rng: np.random.Generator | None,
    ) -> Float[Tensor, "sample channel size size"]:
        """Random or central crop of 224, flip, channels first."""
        x = np.ascontiguousarray(flipped(cropped(views, SIZE, rng), rng))
        return torch.from_numpy(x).permute(0, 3, 1, 2).float() / SCALE
