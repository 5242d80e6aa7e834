"""AEROBLADE (arXiv 2401.17879): how far an image is from what autoencoders make of it.

Its distance is LPIPS at VGG16's second block, which needs weights that cannot be had everywhere;
as published the smallest over autoencoders tells generated from real. Here the vector of log
distances, one an autoencoder at hand, is read by logistic regression: our K-way adaptation. On
the central native crop of 256.

`reconstruction-mse` is the same with a plain distance, the mean square difference of 8-bit values
scaled to -1..1, for where LPIPS is not at hand. It is not AEROBLADE and never goes by its name.
"""

from __future__ import annotations

from abc import abstractmethod
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from jaxtyping import Float
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from leakcache.errors import WeightsError
from leaknet.baselines.augment import IMAGENET_MEAN, IMAGENET_STD
from leaknet.baselines.autoencoders import NATIVE, Reconstructor, at_hand, measured
from leaknet.baselines.base import BaselineOptions
from leaknet.baselines.images import BaselineImages
from leaknet.baselines.linear_probe import VectorPeer
from leaknet.baselines.weights import count, fingerprint, frozen

# LPIPS (arXiv 1801.03924) at VGG16's second block: what AEROBLADE measures with.
#
# Features of both images after relu2_2 are scaled to unit length at each position; their squared
# differences are weighted by channel and averaged over the positions. The trunk is torchvision's
# VGG16; the 128 channel weights are those of the LPIPS package. Its image scaling is kept as
# published: means .485 .456 .406 and deviations .229 .224 .225 of values from 0 to 1.

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


LEAST = 1e-8
"""Added to distances before the logarithm, so that a perfect reconstruction stays finite."""


class ReconstructionDistance(VectorPeer):
    """Log distances between x and D(E(x)), one an autoencoder at hand.

    Attributes:
        side: of the native crop in pixels.
    """

    side: ClassVar[int] = NATIVE

    def __init__(self, classes: tuple[str, ...], options: BaselineOptions) -> None:
        super().__init__(classes, options)
        self.autoencoders = at_hand(options.weights, options.device)

    @abstractmethod
    def distance(
        self, x: Float[Tensor, "image 3 side side"], y: Float[Tensor, "image 3 side side"]
    ) -> Float[Tensor, "image"]:
        """Of images in -1 to 1; 0 or more."""

    @property
    def depends(self) -> dict[str, Any]:
        """What the distance depends on."""
        return {}

    @property
    def parameters(self) -> int:
        """Of the autoencoders, and the regression's."""
        own = sum(one.parameters for one in self.autoencoders)
        return own + (len(self.autoencoders) + 1) * len(self.classes)

    def measure(self, images: BaselineImages) -> Float[np.ndarray, "image dimension"]:
        """log10 of the distances, kept once they are computed."""
        spec = (self.name, (1,), "float32")
        columns = [
            measured(images, one, self._distances, spec, side=self.side, **self.depends)
            for one in self.autoencoders
        ]
        found = np.concatenate([rows[:] for rows in columns], axis=1).astype(np.float64)
        return np.log10(found + LEAST)

    @torch.inference_mode()
    def _distances(
        self, pixels: Float[Tensor, "image 3 side side"], autoencoder: Reconstructor
    ) -> Float[Tensor, "image 1"]:
        return self.distance(pixels, autoencoder.reconstruct(pixels))[:, None]


class Aeroblade(ReconstructionDistance):
    """The published distance."""

    name: ClassVar[str] = "aeroblade"

    def __init__(self, classes: tuple[str, ...], options: BaselineOptions) -> None:
        # First, since it is what may be missing.
        self.lpips = frozen(Lpips2.load(options.weights), options.device)
        super().__init__(classes, options)

    def distance(
        self, x: Float[Tensor, "image 3 side side"], y: Float[Tensor, "image 3 side side"]
    ) -> Float[Tensor, "image"]:
        """LPIPS at the second block."""
        found: Tensor = self.lpips(x, y)
        return found

    @property
    def depends(self) -> dict[str, Any]:
        """The hash of LPIPS's weights."""
        return {"lpips": fingerprint(self.lpips)}

    @property
    def parameters(self) -> int:
        """With those of LPIPS."""
        return super().parameters + count(self.lpips)


class ReconstructionMSE(ReconstructionDistance):
    """The plain distance."""

    name: ClassVar[str] = "reconstruction-mse"

    def distance(
        self, x: Float[Tensor, "image 3 side side"], y: Float[Tensor, "image 3 side side"]
    ) -> Float[Tensor, "image"]:
        """Mean square difference."""
        return (x - y).square().mean(dim=(1, 2, 3))
