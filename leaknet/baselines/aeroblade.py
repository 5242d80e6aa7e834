"""AEROBLADE (arXiv 2401.17879): distance between an image and its autoencoder reconstructions.

The published distance is LPIPS (arXiv 1801.03924) at VGG16's second block, and the published score
its minimum over autoencoders, for generated against real. Here logistic regression reads the
vector of log distances, one per available autoencoder: our K-way adaptation, on the central
native crop of 256. `reconstruction-mse` replaces LPIPS by the mean square error; it is not
AEROBLADE.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

import torch
from jaxtyping import Float
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from leakcache.errors import WeightsError
from leaknet.baselines.autoencoders import Autoencoder
from leaknet.baselines.base import BaselineOptions
from leaknet.baselines.reconstruction import ReconstructionErrors
from leaknet.baselines.trained_network import IMAGENET_MEAN, IMAGENET_STD
from leaknet.baselines.weights import count, fingerprint, frozen

Images = Float[Tensor, "image 3 height width"]
Crops = Float[Tensor, "image 3 side side"]

FILE = "lpips-vgg.safetensors"
KEY = "lin1.model.1.weight"
CURE = (
    f"save the LPIPS package's channel weights (`{KEY}` of vgg.pth, 1×128×1×1) and the tensors "
    "`features.*` of torchvision's vgg16 in it"
)


class Lpips2(nn.Module):
    """LPIPS at relu2_2 of VGG16: 260,160 parameters of the trunk and 128 channel weights.

    Features are normalised to unit length at each position; their squared differences are
    weighted by channel and averaged over positions. The trunk is torchvision's VGG16, the channel
    weights and the image scaling are those of the LPIPS package.
    """

    def __init__(self) -> None:
        super().__init__()
        # Layer indices equal those of torchvision's vgg16.
        self.trunk = nn.Sequential(*_block(3, 64), nn.MaxPool2d(2), *_block(64, 128))
        self.weights = nn.Parameter(torch.ones(1, 128, 1, 1))

    @classmethod
    def load(cls, folder: Path | None) -> Lpips2:
        """With the weights in `FILE` of the folder of local weights.

        Raises:
            WeightsError: the folder or the file is missing, or its content does not fit.
        """
        if folder is None or not (folder / FILE).is_file():
            where = FILE if folder is None else folder / FILE
            raise WeightsError(f"{where} is missing: {CURE}, and pass --weights")
        path = folder / FILE
        try:
            tensors = load_file(path)
            network = cls()
            own = {f"trunk.{name}": tensors[f"features.{name}"] for name in _names(network.trunk)}
            network.load_state_dict(own | {"weights": tensors[KEY]})
        except (SafetensorError, OSError, KeyError, RuntimeError) as error:
            reason = " ".join(str(error).split())
            raise WeightsError(f"{path}: contains other weights ({reason}): {CURE}") from error
        return network

    def forward(self, x: Images, y: Images) -> Float[Tensor, "image"]:
        """Distances of images in [-1, 1], at least 0."""
        squares = (self._features(x) - self._features(y)).square()
        return (squares * self.weights).sum(dim=1).mean(dim=(1, 2))

    def _features(self, x: Images) -> Float[Tensor, "image 128 rows columns"]:
        mean, deviation = (
            torch.tensor(values, device=x.device).view(3, 1, 1)
            for values in (IMAGENET_MEAN, IMAGENET_STD)
        )
        features: Tensor = self.trunk(((x + 1) / 2 - mean) / deviation)
        return features / (features.square().sum(dim=1, keepdim=True).sqrt() + 1e-10)


def _block(channels: int, width: int) -> tuple[nn.Module, ...]:
    first, second = nn.Conv2d(channels, width, 3, padding=1), nn.Conv2d(width, width, 3, padding=1)
    return first, nn.ReLU(), second, nn.ReLU()


def _names(trunk: nn.Module) -> list[str]:
    return list(trunk.state_dict())


class Aeroblade(ReconstructionErrors):
    """The published distance."""

    name: ClassVar[str] = "aeroblade"

    def __init__(self, classes: tuple[str, ...], options: BaselineOptions) -> None:
        # First, because LPIPS is the weights file most likely to be missing.
        self.lpips = frozen(Lpips2.load(options.weights), options.device)
        super().__init__(classes, options)

    @torch.inference_mode()
    def errors(self, pixels: Crops, autoencoder: Autoencoder) -> Float[Tensor, "image 1"]:
        """LPIPS at the second block."""
        distances: Tensor = self.lpips(pixels, autoencoder.reconstruct(pixels))
        return distances[:, None]

    @property
    def depends(self) -> dict[str, Any]:
        """Hash of the LPIPS weights."""
        return {"lpips": fingerprint(self.lpips)}

    @property
    def parameters(self) -> int:
        """Includes those of LPIPS."""
        return super().parameters + count(self.lpips)


class ReconstructionMSE(ReconstructionErrors):
    """Mean square error, without LPIPS."""

    name: ClassVar[str] = "reconstruction-mse"

    @torch.inference_mode()
    def errors(self, pixels: Crops, autoencoder: Autoencoder) -> Float[Tensor, "image 1"]:
        """Mean square error."""
        return (pixels - autoencoder.reconstruct(pixels)).square().mean(dim=(1, 2, 3))[:, None]
