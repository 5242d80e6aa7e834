"""How far a picture's statistics lie from all that the known generators have shown.

    ν = log |x - P x|², P onto the principal axes of the training pictures
      → (ν - mean) / deviation of held-out training pictures, less what is usual, if positive

Class scores only say which known generator a picture is likest to. An unknown one that is unlike
all of them in directions in which they do not differ leaves its trace here (the residual of a
principal subspace: Wang et al., "ViM: Out-of-distribution with virtual-logit matching", 2022).
"""

from __future__ import annotations

import math

import numpy as np
import torch
from jaxtyping import Float, Shaped
from torch import Tensor, nn

AXES = 128
"""At most, and at most half as many as there are pictures."""
FOLDS = 5
"""Each training picture is judged by axes of pictures of other prompts."""
MOST = 3000
"""Pictures that axes are taken of: the time grows with the cube of their number."""
USUAL = 1.0
"""Deviations above the mean that count as nothing."""
SEED = 0
LEAST_ENERGY = 1e-12
LEAST_DEVIATION = 1e-4


class Novelty(nn.Module):
    """From features of pictures to how unusual they are, 0 or more; all of it are buffers."""

    axes: Tensor
    mean: Tensor
    deviation: Tensor

    def __init__(self, length: int) -> None:
        """Build empty, where every picture is usual: `fit` or a state dict supplies the values.

        Args:
            length: of the features.
        """
        super().__init__()
        self.register_buffer("axes", torch.zeros(length, AXES))
        self.register_buffer("mean", torch.zeros(()))
        self.register_buffer("deviation", torch.tensor(math.inf))

    def fit(
        self, features: Float[Tensor, "picture value"], groups: Shaped[np.ndarray, "picture"]
    ) -> Novelty:
        """Take the axes of training pictures, and what is usual for those of other prompts.

        With a single prompt nothing can be held out, and every picture stays usual; so it does
        where all pictures are alike.

        Args:
            features: centred, as `leaknet.model.ridge.RidgeMap.features` gives them.
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
        """Deviations beyond what is usual, 0 or more."""
        energy = log_residual(features, self.axes)
        return ((energy - self.mean) / self.deviation - USUAL).clamp_min(0)


def principal_axes(features: Float[Tensor, "picture value"]) -> Float[Tensor, "value axis"]:
    """Orthonormal columns, the strongest first; columns of zeros where there are not so many."""
    features = features[:: -(-len(features) // MOST)]
    count = min(AXES, len(features) // 2)
    values, vectors = torch.linalg.eigh((features @ features.T).double())
    values, vectors = values.flip(0)[:count], vectors.flip(1)[:, :count]
    found = torch.zeros(features.shape[1], AXES).to(features)
    there = values > values[:1] * 1e-9
    scaled = vectors[:, there] / values[there].sqrt()
    found[:, : int(there.sum())] = features.T @ scaled.to(features)
    return found


def log_residual(
    features: Float[Tensor, "*batch value"], axes: Float[Tensor, "value axis"]
) -> Float[Tensor, " *batch"]:
    """Log of the energy that the axes leave of each row."""
    energy = features.square().sum(dim=-1) - (features @ axes).square().sum(dim=-1)
    return energy.clamp_min(LEAST_ENERGY).log()


def _folds(groups: Shaped[np.ndarray, "picture"]) -> Shaped[np.ndarray, "picture"]:
    """A fold number of each picture; a prompt's pictures share it."""
    names, number = np.unique(groups, return_inverse=True)
    dealt = np.random.default_rng(SEED).permutation(len(names)) % min(FOLDS, len(names))
    found: np.ndarray = dealt[number]
    return found
