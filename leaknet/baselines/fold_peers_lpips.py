"""LPIPS (arXiv 1801.03924) at VGG16's second block: what AEROBLADE measures with.

Features of both images after relu2_2 are scaled to unit length at each position; their squared
differences are weighted by channel and averaged over the positions. The trunk is torchvision's
VGG16; the 128 channel weights are those of the LPIPS package. Its image scaling is kept as
published: means .485 .456 .406 and deviations .229 .224 .225 of values from 0 to 1.
"""

from __future__ import annotations

from pathlib import Path

import torch
from jaxtyping import Float
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from leakcache.errors import WeightsError
from leaknet.baselines.augment import IMAGENET_MEAN, IMAGENET_STD

FILE = "lpips-vgg.safetensors"
KEY = "lin1.model.1.weight"
CURE = (
    f"save the LPIPS package's channel weights (`{KEY}` of vgg.pth, 1×128×1×1) and the tensors "
    "`features.*` of torchvision's vgg16 in it"
)


class Lpips2(nn.Module):
    """The distance at the second block: 260,160 parameters of the trunk, 128 weights."""

    def __init__(self) -> None:
        super().__init__()
        # The numbers of the layers are those of torchvision's vgg16.
        self.trunk = nn.Sequential(*_block(3, 64), nn.MaxPool2d(2), *_block(64, 128))
        self.weights = nn.Parameter(torch.ones(1, 128, 1, 1))

    @classmethod
    def load(cls, folder: Path | None) -> Lpips2:
        """With the weights in `FILE` of the folder of local weights.

        Raises:
            WeightsError: there is no folder or file, or it holds something else.
        """
        if folder is None or not (folder / FILE).is_file():
            where = FILE if folder is None else folder / FILE
            raise WeightsError(f"{where} is not there: {CURE}, and pass --weights")
        path = folder / FILE
        try:
            tensors = load_file(path)
            network = cls()
            own = {f"trunk.{name}": tensors[f"features.{name}"] for name in _names(network.trunk)}
            network.load_state_dict(own | {"weights": tensors[KEY]})
        except (SafetensorError, OSError, KeyError, RuntimeError) as error:
            said = " ".join(str(error).split())
            raise WeightsError(f"{path}: holds other weights ({said}): {CURE}") from error
        return network

    def forward(
        self,
        x: Float[Tensor, "image 3 height width"],
        y: Float[Tensor, "image 3 height width"],
    ) -> Float[Tensor, "image"]:
        """Distances of images in -1 to 1, 0 or more."""
        apart = (self._features(x) - self._features(y)).square()
        return (apart * self.weights).sum(dim=1).mean(dim=(1, 2))

    def _features(
        self, x: Float[Tensor, "image 3 height width"]
    ) -> Float[Tensor, "image 128 rows columns"]:
        mean, deviation = (
            torch.tensor(values, device=x.device).view(3, 1, 1)
            for values in (IMAGENET_MEAN, IMAGENET_STD)
        )
        found: Tensor = self.trunk(((x + 1) / 2 - mean) / deviation)
        return found / (found.square().sum(dim=1, keepdim=True).sqrt() + 1e-10)


def _block(channels: int, width: int) -> tuple[nn.Module, ...]:
    first, second = nn.Conv2d(channels, width, 3, padding=1), nn.Conv2d(width, width, 3, padding=1)
    return first, nn.ReLU(), second, nn.ReLU()


def _names(trunk: nn.Module) -> list[str]:
    return list(trunk.state_dict())
