"""The branch that reads statistics of the pixels: fitted in closed form, added to h̄.

    statistics of the picture and of its quarters → class scores of each (`leaknet.ridge_map`)
      → their mean → a fixed rotation into D dimensions

With a hundred images a class a strongly shrunk linear map is far ahead of one that was learnt by
gradient descent (docs/LOG.md). Quarters are learnt from as images of their own: how far they
differ within a picture tells the regression which differences mean nothing. While the rest of the
network trains, each training image is embedded as a fit without its prompt group would embed it;
otherwise the head would learn from an embedding that knows the answers.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from leaknet.latents import SplitLatents
from leaknet.ridge_map import RidgeMap

MOST_VIEWS = 6000
"""Views that are learnt from, at most, where there are not more images than that: the fit takes
time with the cube of their number. The more images, the fewer parts of each are needed."""


class Companion(nn.Module):
    """From statistics of an image's pixels to an embedding of `dimension` values.

    All of it are buffers, saved with the model: nothing is learnt by gradient descent.
    """

    def __init__(self, dimension: int) -> None:
        """Build without statistics: `fit` or a state dict supplies them."""
        super().__init__()
        self.map = RidgeMap(dimension)

    def fit(
        self, train: SplitLatents, classes: tuple[str, ...]
    ) -> Float[Tensor, "image dimension"]:
        """Fit to the training fold; the embedding of each of its images without its own group.

        Args:
            train: with statistics.
            classes: in the order of the logits.
        """
        assert train.statistics is not None
        images, parts = train.statistics.shape[:2]
        parts = max(1, min(parts, MOST_VIEWS // images))
        targets = train.targets(classes).cpu().numpy()
        found = self.map.regress(
            train.statistics[:, :parts].flatten(0, 1),
            targets.repeat(parts),
            train.groups.repeat(parts),
            len(classes),
        )
        held_out = found.held_out.reshape(images, parts, -1).mean(axis=1)
        rotation = _rotation(len(classes), self.map.weight.shape[1]) * _reach(held_out, targets)
        self.map.weight.copy_(torch.from_numpy(found.weights @ rotation))
        return torch.from_numpy(held_out @ rotation).to(self.map.weight)

    def forward(
        self, statistics: Float[Tensor, "batch part value"]
    ) -> Float[Tensor, "batch dimension"]:
        """The embedding."""
        embedded: Tensor = self.map(statistics).mean(dim=1)
        return embedded


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
