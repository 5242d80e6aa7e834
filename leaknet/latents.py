"""One fold of a cache in memory: latents on the device, and what is known of each image."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import torch
from jaxtyping import Float, Int, Int64, Shaped
from torch import Tensor

from leakcache.degraded_statistics import stored_degraded
from leakcache.errors import CacheIncomplete
from leakcache.pixel_statistics import stored_statistics
from leakcache.store import LatentCache

COLUMNS = ("labels", "groups", "folds", "hashes", "paths")


@dataclass(frozen=True)
class SplitLatents:
    """Clean latents of some images, in the cache's order.

    Attributes:
        z0: in the type they are stored in, on the device they are used on.
        labels: generator of each image.
        groups: prompt group of each image.
        folds: fold of each image.
        hashes: SHA-256 of each image file, in hexadecimal; decides its evaluation noise.
        paths: of each image, relative to the data root.
        statistics: of each image's native pixels and of its parts, as stored; None where the cache
            has none.
        degraded: statistics of degraded copies of the same; None but for training images whose
            cache has them.
    """

    z0: Float[Tensor, "image view channel height width"]
    labels: Shaped[np.ndarray, "image"]
    groups: Shaped[np.ndarray, "image"]
    folds: Shaped[np.ndarray, "image"]
    hashes: Shaped[np.ndarray, "image"]
    paths: Shaped[np.ndarray, "image"]
    statistics: Float[Tensor, "image part value"] | None = None
    degraded: Float[Tensor, "image copy value"] | None = None

    def __len__(self) -> int:
        return len(self.z0)

    @property
    def views(self) -> int:
        """Crops of each image."""
        return self.z0.shape[1]

    @property
    def shape(self) -> tuple[int, int, int]:
        """Of one latent: channel, height, width."""
        channel, height, width = self.z0.shape[2:]
        return (channel, height, width)

    @cached_property
    def flat(self) -> Float[Tensor, "crop channel height width"]:
        """All views one after another: view v of image i is row i · views + v."""
        return self.z0.flatten(0, 1)

    def targets(self, classes: tuple[str, ...]) -> Int64[Tensor, "image"]:
        """Class number of each image, on the device; -1 for a generator not among `classes`."""
        number = {name: index for index, name in enumerate(classes)}
        known = [number.get(label, -1) for label in self.labels.tolist()]
        return torch.tensor(known, dtype=torch.int64, device=self.z0.device)

    def to(self, device: torch.device) -> SplitLatents:
        """The same split with its latents and statistics on another device."""
        z0, statistics, degraded = self._tensors(lambda values: values.to(device))
        return replace(self, z0=z0, statistics=statistics, degraded=degraded)

    def take(self, rows: Int[np.ndarray, "k"]) -> SplitLatents:
        """The images at these positions, in that order."""
        columns = {name: getattr(self, name)[rows] for name in COLUMNS}
        z0, statistics, degraded = self._tensors(lambda values: values[rows])
        return SplitLatents(z0=z0, statistics=statistics, degraded=degraded, **columns)

    def _tensors(
        self, change: Callable[[Tensor], Tensor]
    ) -> tuple[Tensor, Tensor | None, Tensor | None]:
        return (
            change(self.z0),
            None if self.statistics is None else change(self.statistics),
            None if self.degraded is None else change(self.degraded),
        )


def load_split(cache: LatentCache, fold: str, device: torch.device) -> SplitLatents:
    """Read one fold whole: 8 KiB an image for 4×32×32 in half precision, 153 for statistics.

    Raises:
        CacheCorrupt: a shard's bytes do not match their checksum.
    """
    rows = cache.rows(fold)
    z0 = torch.from_numpy(cache.latents(rows)).to(device)
    columns = {name: getattr(cache, name)[rows] for name in COLUMNS}
    statistics, degraded = kept_statistics(cache, rows, device)
    return SplitLatents(z0=z0, statistics=statistics, degraded=degraded, **columns)


def kept_statistics(
    cache: LatentCache, rows: Int[np.ndarray, "image"], device: torch.device
) -> tuple[Tensor | None, Tensor | None]:
    """`statistics` and `degraded` of some images, None where the cache lacks them.

    Raises:
        CacheCorrupt: a row's bytes do not match their checksum.
    """
    statistics, degraded = stored_statistics(cache, rows), stored_degraded(cache, rows)
    return (
        None if statistics is None else torch.from_numpy(statistics).to(device),
        None if degraded is None else torch.from_numpy(degraded).to(device),
    )


def check_statistics(*splits: SplitLatents) -> None:
    """Refuse splits without statistics of the pixels.

    Raises:
        CacheIncomplete: one has images and none.
    """
    if any(len(split) and split.statistics is None for split in splits):
        raise CacheIncomplete(f"the cache holds no statistics of the pixels {_CURE}")


def check_degraded(train: SplitLatents) -> None:
    """Refuse a training fold without statistics of degraded copies.

    Raises:
        CacheIncomplete: it has none.
    """
    if train.degraded is None:
        raise CacheIncomplete(f"the cache holds no statistics of degraded copies {_CURE}")


_CURE = (
    "of all its images: run `leak cache build --with statistics` again with the options it was "
    "built with, or train with --preset paper"
)
