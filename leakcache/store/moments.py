"""Count, mean and sum of squared deviations that merge in any order.

The pairwise update is Chan, Golub and LeVeque (1979): numerically stable, exact in the
count, and independent of how the samples were split up to rounding.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float


@dataclass(frozen=True)
class Moments:
    """First two moments of samples with a common shape.

    Attributes:
        count: number of samples.
        mean: their mean, float64, one entry per coordinate.
        m2: sum of squared deviations from the mean, float64, the same shape.
    """

    count: int
    mean: Float[np.ndarray, "*shape"]
    m2: Float[np.ndarray, "*shape"]

    @classmethod
    def empty(cls, shape: tuple[int, ...]) -> Moments:
        """Moments of no samples: the neutral element of `merge`."""
        return cls(0, np.zeros(shape), np.zeros(shape))

    @classmethod
    def of(cls, samples: Float[np.ndarray, "sample *shape"]) -> Moments:
        """Moments over the first axis, accumulated in float64."""
        if len(samples) == 0:
            return cls.empty(samples.shape[1:])
        exact = samples.astype(np.float64)
        mean = exact.mean(axis=0)
        return cls(len(exact), mean, np.square(exact - mean).sum(axis=0))

    def merge(self, other: Moments) -> Moments:
        """Moments of both sets of samples together."""
        count = self.count + other.count
        if count == 0:
            return self
        shift = other.mean - self.mean
        mean = self.mean + shift * (other.count / count)
        m2 = self.m2 + other.m2 + np.square(shift) * (self.count * other.count / count)
        return Moments(count, mean, m2)

    @property
    def variance(self) -> Float[np.ndarray, "*shape"]:
        """Population variance (division by the count); NaN where there is no sample."""
        if self.count == 0:
            return np.full_like(self.m2, np.nan)
        return self.m2 / self.count


@dataclass(frozen=True)
class LatentMoments:
    """What closed-form standardisation needs.

    Attributes:
        latent: over pixels, per channel: shape (channel,).
        dct: over images, per channel and coefficient: shape (channel, size, size).
    """

    latent: Moments
    dct: Moments

    @classmethod
    def of(
        cls,
        latents: Float[np.ndarray, "image view channel height width"],
        coefficients: Float[np.ndarray, "image view channel size size"],
    ) -> LatentMoments:
        """Moments of these images; every view counts as a sample."""
        channel = latents.shape[2]
        pixels = np.moveaxis(latents, 2, -1).reshape(-1, channel)
        samples = coefficients.reshape(-1, *coefficients.shape[2:])
        return cls(Moments.of(pixels), Moments.of(samples))

    @classmethod
    def empty(cls, channel: int, size: int) -> LatentMoments:
        """Moments of no images."""
        return cls(Moments.empty((channel,)), Moments.empty((channel, size, size)))

    def merge(self, other: LatentMoments) -> LatentMoments:
        """Moments of both sets of images together."""
        return LatentMoments(self.latent.merge(other.latent), self.dct.merge(other.dct))
