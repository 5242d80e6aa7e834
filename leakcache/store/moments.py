"""Count, mean and sum of squared deviations that merge in any order.

The pairwise update is Chan, Golub and LeVeque (1979): numerically stable, exact in the
count, and independent of how the samples were split up to rounding.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
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


def merge_all(parts: Iterable[Moments], shape: tuple[int, ...]) -> Moments:
    """Merge any number of moments of the given shape, from left to right."""
    total = Moments.empty(shape)
    for part in parts:
        total = total.merge(part)
    return total


# Moments of clean latents and of their low DCT coefficients, per generator and fold.


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


Cell = tuple[str, str]
"""Label and fold."""


@dataclass(frozen=True)
class MomentTable:
    """One `LatentMoments` per label and fold, as arrays.

    Attributes:
        cells: label and fold of each row.
        arrays: by name, `{latent,dct}_{count,mean,m2}`, with one row per cell.
    """

    cells: tuple[Cell, ...]
    arrays: Mapping[str, np.ndarray]

    @classmethod
    def of(cls, moments: Mapping[Cell, LatentMoments]) -> MomentTable:
        """Stack the moments in the order of their cells."""
        cells = tuple(sorted(moments))
        arrays = {}
        for part in ("latent", "dct"):
            found = [getattr(moments[cell], part) for cell in cells]
            arrays[f"{part}_count"] = np.array([m.count for m in found], np.int64)
            arrays[f"{part}_mean"] = np.stack([m.mean for m in found])
            arrays[f"{part}_m2"] = np.stack([m.m2 for m in found])
        return cls(cells, arrays)

    def total(self, cells: Iterable[Cell]) -> LatentMoments:
        """Moments of all the images in these cells together."""
        rows = [self.cells.index(cell) for cell in cells]
        return LatentMoments(*(self._total(part, rows) for part in ("latent", "dct")))

    def _total(self, part: str, rows: list[int]) -> Moments:
        count, mean, m2 = (self.arrays[f"{part}_{name}"] for name in ("count", "mean", "m2"))
        return merge_all((Moments(int(count[r]), mean[r], m2[r]) for r in rows), mean.shape[1:])
