"""AEDR (arXiv 2507.18988): ratio of two consecutive reconstruction losses of an autoencoder.

    t = H · L₁ / L₂,  L₁ = |x - x₁|² and L₂ = |x₁ - x₂|² per value, x₁ = D(E(x)), x₂ = D(E(x₁))

H is the homogeneity of the image: Σ p(i, j) / (1 + (i - j)²) over the co-occurrence matrix p of
horizontal neighbours in 32 levels of grey. Images of the autoencoder's own generator have the
lowest ratios, and are accepted up to the 95 % quantile of a kernel density of them.

The published method knows the autoencoder of each generator. Here it is the one whose threshold
parts a generator from the others best, in balanced accuracy on validation images; the logit of a
generator is how far log t lies below its threshold, so that its sign is the published answer. This
K-way adaptation is ours, as is the central native crop of 256.
"""

from __future__ import annotations

from typing import ClassVar

import numpy as np
import torch
from jaxtyping import Float, Float64, Int
from scipy.stats import gaussian_kde
from torch import Tensor

from leakcache.errors import TrainingError
from leaknet.baselines.autoencoders import Autoencoder
from leaknet.baselines.base import BaselineImages
from leaknet.baselines.reconstruction import EPSILON, ReconstructionErrors
from leaknet.data.embeddings import Embeddings

LEVELS = 32
ALPHA = 0.05
"""Fraction of a generator's own images that its threshold rejects."""
POINTS = 10_000
"""Of the grid on which the density is summed."""
LUMA = (0.299, 0.587, 0.114)
ABSENT = -1e3
"""Logit of a class without training images."""


def double_reconstruction_ratio(
    pixels: Float[Tensor, "image 3 height width"], autoencoder: Autoencoder
) -> Float[Tensor, "image"]:
    """T of images in [-1, 1]."""
    once = autoencoder.decode(autoencoder.encode(pixels))
    twice = autoencoder.decode(autoencoder.encode(once))
    first = (once - pixels).square().mean(dim=(1, 2, 3))
    second = (twice - once).square().mean(dim=(1, 2, 3))
    return homogeneity(pixels) * first / (second + EPSILON)


def homogeneity(pixels: Float[Tensor, "image 3 height width"]) -> Float[Tensor, "image"]:
    """H of images in [-1, 1]; 1 for an image of one grey."""
    weights = pixels.new_tensor(LUMA).view(3, 1, 1)
    grey = ((pixels + 1) * 127.5 * weights).sum(dim=1).round().clamp(0, 255)
    levels = (grey / (256 / LEVELS)).floor()
    # The symmetric matrix counts each pair of neighbours in both orders, and so does the mean.
    return (1 / (1 + (levels[..., 1:] - levels[..., :-1]).square())).mean(dim=(1, 2))


def density_threshold(values: Float[np.ndarray, "image"], alpha: float = ALPHA) -> float:
    """The 1 - α quantile of a Gaussian kernel density, by Scott's rule, of these values."""
    deviation = float(values.std(ddof=1)) if len(values) > 1 else 0.0
    if deviation <= EPSILON * max(abs(float(values.mean())), EPSILON):
        return float(values.max())
    grid = np.linspace(values.min() - deviation, values.max() + deviation, POINTS)
    below = np.cumsum(gaussian_kde(values)(grid))
    return float(np.interp(1 - alpha, below / below[-1], grid))


class AEDR(ReconstructionErrors):
    """The ratio and its threshold for each generator."""

    name: ClassVar[str] = "aedr"

    @torch.inference_mode()
    def errors(
        self, pixels: Float[Tensor, "image 3 side side"], autoencoder: Autoencoder
    ) -> Float[Tensor, "image 1"]:
        """The ratio t."""
        return double_reconstruction_ratio(pixels, autoencoder)[:, None]

    @property
    def parameters(self) -> int:
        """Of the autoencoders; a threshold and a choice for each class."""
        return sum(one.parameters for one in self.autoencoders) + 2 * len(self.classes)

    def fit(self, train: BaselineImages, val: BaselineImages) -> AEDR:
        """Thresholds on the training images; autoencoders by balanced accuracy on `val`.

        Raises:
            TrainingError: the training fold has fewer than two classes.
        """
        targets = train.targets(self.classes)
        if len(np.unique(targets)) < 2:
            raise TrainingError(f"{self.name}: the training fold has fewer than two classes")
        values, held_out = self.measure(train), self.measure(val)
        chosen, thresholds = [], []
        for number in range(len(self.classes)):
            own = targets == number
            if not own.any():
                chosen.append(0)
                thresholds.append(ABSENT)
                continue
            limits = np.array([np.log10(density_threshold(10**x)) for x in values[own].T])
            own_held_out = val.targets(self.classes) == number
            accuracies = _balanced_accuracy(limits, held_out, own_held_out)
            if not np.isfinite(accuracies).all():
                accuracies = _balanced_accuracy(limits, values, own)
            chosen.append(int(accuracies.argmax()))
            thresholds.append(float(limits[chosen[-1]]))
        self.fitted = {"autoencoder": torch.tensor(chosen), "threshold": torch.tensor(thresholds)}
        return self

    def embed(self, images: BaselineImages) -> Embeddings:
        """log10 of t for each autoencoder, and how far it lies below each generator's threshold."""
        vectors = self.measure(images)
        chosen: Int[np.ndarray, "class"] = self.fitted["autoencoder"].numpy()
        logits = self.fitted["threshold"].numpy() - vectors[:, chosen]
        return self.embeddings(images, vectors, logits)


def _balanced_accuracy(
    limits: Float64[np.ndarray, "autoencoder"],
    values: Float64[np.ndarray, "image autoencoder"],
    own: np.ndarray,
) -> Float64[np.ndarray, "autoencoder"]:
    """Of accepting the own images and rejecting the others; NaN without images of either kind."""
    if own.all() or not own.any():
        return np.full(len(limits), np.nan)
    accepted = values <= limits
    found: np.ndarray = (accepted[own].mean(axis=0) + 1 - accepted[~own].mean(axis=0)) / 2
    return found
