"""The branch that reads statistics of the pixels: fitted in closed form, added to h̄.

    x → (x - mean) / deviation, clipped to ±3, each family divided by √(its length)
      → class scores of a ridge regression → a fixed rotation into D dimensions

With a hundred images a class a strongly shrunk linear map is far ahead of one that was learnt by
gradient descent (docs/LOG.md). While the rest of the network trains, each training image is
embedded as a fit without its prompt group would embed it; otherwise the head would learn from an
embedding that knows the answers.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from leakcache.pixel_statistics import LENGTH, LENGTHS
from leaknet.cross_ridge import CrossRidge, cross_ridge
from leaknet.latents import SplitLatents

CLIP = 3.0
"""Standard deviations: farther off is no stronger evidence."""
CONSTANT = 1e-4
"""A deviation below this is that of a constant, whose value is 0."""


class Companion(nn.Module):
    """From statistics of an image's pixels to an embedding of `dimension` values.

    All of it are buffers, saved with the model: nothing is learnt by gradient descent.
    """

    mean: Tensor
    scale: Tensor
    weight: Tensor

    def __init__(self, dimension: int) -> None:
        """Build without statistics: `fit` or a state dict supplies them."""
        super().__init__()
        self.register_buffer("mean", torch.zeros(LENGTH))
        self.register_buffer("scale", torch.zeros(LENGTH))
        self.register_buffer("weight", torch.zeros(LENGTH, dimension))

    def fit(
        self, train: SplitLatents, classes: tuple[str, ...]
    ) -> Float[Tensor, "image dimension"]:
        """Fit to the training fold; the embedding of each of its images without its own group.

        Args:
            train: with statistics.
            classes: in the order of the logits.
        """
        assert train.statistics is not None
        values = train.statistics.cpu().float()
        deviation = values.std(dim=0, correction=0)
        gain = torch.where(deviation > CONSTANT, 1 / deviation.clamp_min(CONSTANT), 0.0)
        self.mean.copy_(values.mean(dim=0))
        self.scale.copy_(gain)
        features = self.features(values.to(self.mean.device)).cpu().numpy()
        targets = train.targets(classes).cpu().numpy()
        found: CrossRidge = cross_ridge(features, targets, train.groups, len(classes))
        rotation = _rotation(len(classes), self.weight.shape[1]) * _reach(found.held_out, targets)
        self.weight.copy_(torch.from_numpy(found.weights @ rotation))
        return torch.from_numpy(found.held_out @ rotation).to(self.weight)

    def features(self, statistics: Float[Tensor, "batch value"]) -> Float[Tensor, "batch value"]:
        """Standardised, clipped and weighted statistics; the mean square norm is 1 or less."""
        standard = ((statistics.float() - self.mean) * self.scale).clamp(-CLIP, CLIP)
        return standard * family_weights().to(standard.device)

    def forward(self, statistics: Float[Tensor, "batch value"]) -> Float[Tensor, "batch dimension"]:
        """The embedding."""
        embedded: Tensor = self.features(statistics) @ self.weight
        return embedded


def family_weights() -> Float[Tensor, " value"]:
    """1 / √(length of the family · number of families), for each value."""
    each = [
        torch.full((length,), 1 / math.sqrt(length * len(LENGTHS))) for length in LENGTHS.values()
    ]
    return torch.cat(each)


def class_means(
    embedded: Float[Tensor, "image dimension"], targets: Int[Tensor, "image"]
) -> Float[Tensor, "class dimension"]:
    """Mean embedding of each class, all of which have images."""
    classes = range(int(targets.max()) + 1)
    return torch.stack([embedded[targets == number].mean(dim=0) for number in classes])


def _reach(held_out: Float[np.ndarray, "image class"], targets: Int[np.ndarray, "image"]) -> float:
    """How long the embedding of a certain class should be.

    With w = 1/2, as an untrained gate has it, and prototypes where certain images lie, logits are
    reach² times the scores, up to a constant; it is taken where their cross-entropy is least.
    """
    right = torch.from_numpy(targets)
    squares = np.geomspace(1, 100, 25)
    losses = [
        float(F.cross_entropy(torch.from_numpy(square * held_out), right)) for square in squares
    ]
    return math.sqrt(squares[int(np.argmin(losses))])


def _rotation(classes: int, dimension: int) -> Float[np.ndarray, "{classes} {dimension}"]:
    """Orthonormal rows as far as there is room for them, always the same."""
    generator = np.random.default_rng(0)
    square = generator.normal(size=(max(classes, dimension), max(classes, dimension)))
    orthonormal, _ = np.linalg.qr(square)
    found: Float[np.ndarray, "{classes} {dimension}"] = orthonormal[:classes, :dimension]
    return found
