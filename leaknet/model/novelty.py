"""Novelty: how far the statistics of an image lie from those of all training images.

    ν = log |x - P x|², P the projection onto the principal axes of the training images
      → max(0, (ν - mean) / deviation - MARGIN), mean and deviation of held-out training images

Class scores only say which known generator is nearest. An unknown one that differs from all of them
in directions in which they do not differ shows here (the residual of a principal subspace: Wang et
al., "ViM: Out-of-distribution with virtual-logit matching", 2022).
"""

from __future__ import annotations

import math

import numpy as np
import torch
from jaxtyping import Float, Shaped
from torch import Tensor, nn

AXES = 128
"""At most, and at most half as many as there are images."""
FOLDS = 5
"""Cross-validation folds: axes of other prompts give the residual of each training image."""
MAX_IMAGES = 3000
"""Images that axes are fitted to: time grows with the cube of their number."""
MARGIN = 1.0
"""Deviations above the mean up to which novelty is 0."""
SEED = 0
LEAST_ENERGY = 1e-12
LEAST_DEVIATION = 1e-4


class Novelty(nn.Module):
    """From features of images to their novelty, 0 or more. All state is held in buffers."""

    axes: Tensor
    mean: Tensor
    deviation: Tensor

    def __init__(self, length: int) -> None:
        """Build empty, where novelty is 0: `fit` or a state dict supplies the values.

        Args:
            length: of the features.
        """
        super().__init__()
        self.register_buffer("axes", torch.zeros(length, AXES))
        self.register_buffer("mean", torch.zeros(()))
        self.register_buffer("deviation", torch.tensor(math.inf))

    def fit(
        self, features: Float[Tensor, "image value"], groups: Shaped[np.ndarray, "image"]
    ) -> Novelty:
        """Fit the axes to training images, and mean and deviation to held-out ones.

        With a single prompt nothing can be held out, and novelty stays 0; so it does where all
        images are equal.

        Args:
            features: centred, as `leaknet.model.ridge.StandardFeatures` gives them.
            groups: prompt group of each.
        """
        folds = _folds(groups)
        if folds.max() == 0:
            return self
        energy = torch.empty(len(features)).to(features)
        for fold in range(int(folds.max()) + 1):
            held = torch.from_numpy(folds == fold).to(features.device)
            energy[held] = log_residual(features[held], principal_axes(features[~held]))
        if energy.std() > LEAST_DEVIATION:
            self.axes.copy_(principal_axes(features))
            self.mean.copy_(energy.mean())
            self.deviation.copy_(energy.std())
        return self

    def forward(self, features: Float[Tensor, "*batch value"]) -> Float[Tensor, " *batch"]:
        """Deviations beyond the margin, 0 or more."""
        energy = log_residual(features, self.axes)
        return ((energy - self.mean) / self.deviation - MARGIN).clamp_min(0)


def principal_axes(features: Float[Tensor, "image value"]) -> Float[Tensor, "value axis"]:
    """Orthonormal columns, the strongest first; columns of zeros where there are not so many."""
    features = features[:: -(-len(features) // MAX_IMAGES)]
    count = min(AXES, len(features) // 2)
    values, vectors = torch.linalg.eigh((features @ features.T).double())
    values, vectors = values.flip(0)[:count], vectors.flip(1)[:, :count]
    found = torch.zeros(features.shape[1], AXES).to(features)
    present = values > values[:1] * 1e-9
    scaled = vectors[:, present] / values[present].sqrt()
    found[:, : int(present.sum())] = features.T @ scaled.to(features)
    return found


def log_residual(
    features: Float[Tensor, "*batch value"], axes: Float[Tensor, "value axis"]
) -> Float[Tensor, " *batch"]:
    """Log of the energy of each row outside the axes."""
    energy = features.square().sum(dim=-1) - (features @ axes).square().sum(dim=-1)
    return energy.clamp_min(LEAST_ENERGY).log()


def _folds(groups: Shaped[np.ndarray, "image"]) -> Shaped[np.ndarray, "image"]:
    """Fold number of each image, equal within a prompt."""
    names, number = np.unique(groups, return_inverse=True)
    folds = np.random.default_rng(SEED).permutation(len(names)) % min(FOLDS, len(names))
    found: np.ndarray = folds[number]
    return found
