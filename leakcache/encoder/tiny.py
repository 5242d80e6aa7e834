"""The encoder of the Tiny AutoEncoder for Stable Diffusion (TAESD, Ollin Boer Bohan, 2023).

The same layers under the same names as diffusers' `AutoencoderTiny`, whose import costs seconds.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {
    "relu": nn.ReLU,
    "silu": nn.SiLU,
    "swish": nn.SiLU,
    "gelu": nn.GELU,
    "mish": nn.Mish,
}


class TinyEncoder(nn.Module):
    """Convolutions and residual blocks that halve the resolution once a stage after the first.

    Args:
        channels: of each stage.
        blocks: residual blocks of each stage.
        latent_channels: channels of the latents.
        in_channels: channels of the images.
        activation: a key of `ACTIVATIONS`.

    Raises:
        ValueError: stages differ in number or channels, or the activation is not known.
    """

    def __init__(
        self,
        channels: Sequence[int],
        blocks: Sequence[int],
        latent_channels: int,
        in_channels: int = 3,
        activation: str = "relu",
    ) -> None:
        super().__init__()
        if len(channels) != len(blocks) or len(set(channels)) != 1:
            raise ValueError(f"stages of {list(channels)} channels and {list(blocks)} blocks")
        if activation not in ACTIVATIONS:
            raise ValueError(f"activation {activation}: known are {', '.join(ACTIVATIONS)}")
        width = channels[0]
        layers: list[nn.Module] = []
        for stage, count in enumerate(blocks):
            if stage == 0:
                layers.append(nn.Conv2d(in_channels, width, 3, padding=1))
            else:
                layers.append(nn.Conv2d(width, width, 3, padding=1, stride=2, bias=False))
            layers += [ResidualBlock(width, activation) for _ in range(count)]
        self.layers = nn.Sequential(*layers, nn.Conv2d(width, latent_channels, 3, padding=1))

    def forward(
        self, pixels: Float[Tensor, "image channel height width"]
    ) -> Float[Tensor, "image latent rows columns"]:
        """Latents of images in [-1, 1]; the layers read [0, 1]."""
        found: Tensor = self.layers(pixels.add(1).div(2))
        return found


class ResidualBlock(nn.Module):
    """Three 3×3 convolutions beside the identity, and a ReLU after their sum."""

    def __init__(self, width: int, activation: str) -> None:
        super().__init__()
        act = ACTIVATIONS[activation]
        first, second, third = (nn.Conv2d(width, width, 3, padding=1) for _ in range(3))
        self.conv = nn.Sequential(first, act(), second, act(), third)

    def forward(
        self, hidden: Float[Tensor, "image channel rows columns"]
    ) -> Float[Tensor, "image channel rows columns"]:
        """Hidden maps of the same shape."""
        return torch.relu(self.conv(hidden) + hidden)
