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
from typing import Any, ClassVar

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from leaknet.baselines.autoencoders import Reconstructor, at_hand
from leaknet.baselines.base import PeerOptions
from leaknet.baselines.fold_peers_frozen import count, fingerprint, frozen
from leaknet.baselines.fold_peers_lpips import Lpips2
from leaknet.baselines.fold_peers_reconstruction import NATIVE, measured
from leaknet.baselines.images import PeerImages
from leaknet.baselines.linear_probe import VectorPeer

LEAST = 1e-8
"""Added to distances before the logarithm, so that a perfect reconstruction stays finite."""


class ReconstructionDistance(VectorPeer):
    """Log distances between x and D(E(x)), one an autoencoder at hand.

    Attributes:
        side: of the native crop in pixels.
    """

    side: ClassVar[int] = NATIVE

    def __init__(self, classes: tuple[str, ...], options: PeerOptions) -> None:
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

    def measure(self, images: PeerImages) -> Float[np.ndarray, "image dimension"]:
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

    def __init__(self, classes: tuple[str, ...], options: PeerOptions) -> None:
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
