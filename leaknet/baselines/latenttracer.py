"""LatentTracer (arXiv 2405.13360): can an autoencoder's decoder make this very image?

For each candidate autoencoder only the latent is optimised (Adam, from z = E(x)) so that D(z)
comes near x; the final mean square error is the score, and an image of the autoencoder's own
generator ends lower. As published that names one generator a candidate, which is impossible for
generators whose autoencoder is closed. So the row is the vector of log errors before and after
over the autoencoders at hand, and logistic regression reads it: our K-way adaptation.

The learning rate (0.01, of latents of about unit scale) is ours. Gradients are taken in bfloat16
where the device has it, errors always in float32, of values from -1 to 1.
"""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
import timm
import torch
from jaxtyping import Float, Int8
from torch import Tensor, nn

from leakcache.store.array_store import Rows
from leaknet.baselines.autoencoders import NATIVE, Reconstructor, at_hand, measured
from leaknet.baselines.base import BaselineOptions
from leaknet.baselines.images import BaselineImages, JoinedRows
from leaknet.baselines.linear_probe import VectorPeer
from leaknet.baselines.trained_network import NetworkPeer, Recipe
from leaknet.baselines.weights import count

RATE = 0.01
LEAST = 1e-8
"""Added to errors before the logarithm, so that a perfect reconstruction stays finite."""


def inversion_losses(
    pixels: Float[Tensor, "image 3 side side"], autoencoder: Reconstructor, steps: int
) -> Float[Tensor, "image 2"]:
    """Mean square errors of D(E(x)) and of D(z) after `steps` of Adam on z alone."""
    latents = autoencoder.encode(pixels).detach()
    before = _errors(autoencoder, latents, pixels)
    latents.requires_grad_(True)
    optimiser = torch.optim.Adam([latents], lr=RATE)
    for _ in range(steps):
        optimiser.zero_grad()
        with torch.autocast(pixels.device.type, torch.bfloat16):
            found = autoencoder.decode(latents)
        # Of a sum over images every latent's gradient is its own image's, whatever the batch.
        loss = (found.float() - pixels).square().mean(dim=(1, 2, 3)).sum()
        loss.backward()  # type: ignore[no-untyped-call]
        optimiser.step()
    return torch.stack([before, _errors(autoencoder, latents.detach(), pixels)], dim=1)


@torch.no_grad()
def _errors(
    autoencoder: Reconstructor,
    latents: Float[Tensor, "image channel rows columns"],
    pixels: Float[Tensor, "image 3 side side"],
) -> Float[Tensor, "image"]:
    return (autoencoder.decode(latents) - pixels).square().mean(dim=(1, 2, 3))


class LatentTracer(VectorPeer):
    """Row (a): log errors before and after inversion, two an autoencoder.

    Attributes:
        steps: of Adam.
        side: of the native crop in pixels.
    """

    name: ClassVar[str] = "latenttracer"
    steps: ClassVar[int] = 100
    side: ClassVar[int] = NATIVE

    def __init__(self, classes: tuple[str, ...], options: BaselineOptions) -> None:
        super().__init__(classes, options)
        self.autoencoders = at_hand(options.weights, options.device)

    def measure(self, images: BaselineImages) -> Float[np.ndarray, "image dimension"]:
        """log10 of the errors, kept once they are computed."""
        spec = (f"latenttracer-{self.steps}", (2,), "float32")
        columns = [
            measured(images, one, self._losses, spec, side=self.side, steps=self.steps, rate=RATE)
            for one in self.autoencoders
        ]
        losses = np.concatenate([rows[:] for rows in columns], axis=1).astype(np.float64)
        return np.log10(losses + LEAST)

    @property
    def parameters(self) -> int:
        """Of the autoencoders, and the regression's."""
        inputs = 2 * len(self.autoencoders) + 1
        own = sum(one.parameters for one in self.autoencoders)
        return own + inputs * len(self.classes)

    def _losses(
        self, pixels: Float[Tensor, "image 3 side side"], autoencoder: Reconstructor
    ) -> Float[Tensor, "image 2"]:
        return inversion_losses(pixels, autoencoder, self.steps)


class LatentTracerQuick(LatentTracer):
    """Row (a) for processors: a tenth of the steps on a quarter of the pixels."""

    name = "latenttracer-quick"
    steps = 10
    side = 128


# LatentTracer's row (b): a ResNet-18 on what autoencoders lose, x − D(E(x)).
#
# The residuals of all autoencoders at hand are stacked as channels, in units of 8-bit values,
# on the
# central native crop of 256; training takes random crops of 224 and flips. The adaptation and its
# recipe (from scratch, Adam 1e-3, batch 64, at most 30 epochs, patience 5) are ours.

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

    def rows(self, images: BaselineImages) -> Rows:
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
