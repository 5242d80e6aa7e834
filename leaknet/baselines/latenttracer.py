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

from typing import ClassVar

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from leaknet.baselines.autoencoders import Reconstructor, at_hand
from leaknet.baselines.base import PeerOptions
from leaknet.baselines.fold_peers_reconstruction import NATIVE, measured
from leaknet.baselines.images import PeerImages
from leaknet.baselines.linear_probe import VectorPeer

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

    def __init__(self, classes: tuple[str, ...], options: PeerOptions) -> None:
        super().__init__(classes, options)
        self.autoencoders = at_hand(options.weights, options.device)

    def measure(self, images: PeerImages) -> Float[np.ndarray, "image dimension"]:
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
