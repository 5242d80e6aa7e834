"""One fold of a cache in memory: latents on the device, and what is known of each image."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int, Int64, Shaped
from torch import Tensor

from leakcache.errors import CacheIncomplete
from leakcache.statistics.pixels import PARTS
from leakcache.store.cache import Cache
from leaknet.config import FeatureConfig

COLUMNS = ("labels", "groups", "folds", "hashes", "paths")
TENSORS = ("z0", "statistics", "activations", "degraded", "degraded_activations")


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
        statistics: of each image's native pixels, of their quarters and of the reduced image, as
            stored; None where the cache has none.
        activations: statistics of what the encoder sees of the image and of its quarters, then of
            the reduced image and of its quarters; None where the cache has none.
        degraded: statistics of the pixels of degraded copies; None but for training images whose
            cache has them.
        degraded_activations: of what the encoder sees in those copies; likewise.
    """

    z0: Float[Tensor, "image view channel height width"]
    labels: Shaped[np.ndarray, "image"]
    groups: Shaped[np.ndarray, "image"]
    folds: Shaped[np.ndarray, "image"]
    hashes: Shaped[np.ndarray, "image"]
    paths: Shaped[np.ndarray, "image"]
    statistics: Float[Tensor, "image _ value"] | None = None
    activations: Float[Tensor, "image _ number"] | None = None
    degraded: Float[Tensor, "image copy _ value"] | None = None
    degraded_activations: Float[Tensor, "image copy _ number"] | None = None

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
        return replace(self, **self._tensors(lambda values: values.to(device)))

    def take(self, rows: Int[np.ndarray, "k"]) -> SplitLatents:
        """The images at these positions, in that order."""
        columns = {name: getattr(self, name)[rows] for name in COLUMNS}
        return replace(self, **self._tensors(lambda values: values[rows]), **columns)

    def evidence(
        self, rows: slice | Int[np.ndarray, "k"], *, activations: bool, parts: int = PARTS
    ) -> Float[Tensor, "k {parts} value"]:
        """Statistics of the first parts of some images: the whole, then its quarters.

        Of a part's pixels; if wanted, of activations as it is and brought to one size; last, of
        the pixels of the whole brought to one size.
        """
        assert self.statistics is not None
        statistics = self.statistics[rows]
        native, small = statistics[:, :parts], statistics[:, PARTS:].expand(-1, parts, -1)
        if not activations:
            return torch.cat([native, small], dim=-1)
        assert self.activations is not None
        seen = [size[:, :parts] for size in self.activations[rows].chunk(2, dim=1)]
        return torch.cat([native, *seen, small], dim=-1)

    def degraded_evidence(
        self, copies: int, *, activations: bool
    ) -> Float[Tensor, "image copy value"]:
        """The same of the first whole degraded copies of each image."""
        assert self.degraded is not None
        native, small = self.degraded[:, :copies].unbind(dim=2)
        if not activations:
            return torch.cat([native, small], dim=-1)
        assert self.degraded_activations is not None
        seen = self.degraded_activations[:, :copies].unbind(dim=2)
        return torch.cat([native, *seen, small], dim=-1)

    def _tensors(self, change: Callable[[Tensor], Tensor]) -> dict[str, Any]:
        found = {name: getattr(self, name) for name in TENSORS}
        return {name: change(values) for name, values in found.items() if values is not None}


def load_split(cache: Cache, fold: str, device: torch.device) -> SplitLatents:
    """Read one fold whole: 8 KiB an image for 4×32×32 in half precision, 563 for statistics.

    Of these 198 are for pixels and 366 for activations; copies of a training image have 278 more.

    Raises:
        CacheCorrupt: a shard's bytes do not match their checksum.
    """
    rows = cache.rows(fold)
    z0 = torch.from_numpy(cache.column("z0", rows)).to(device)
    columns = {name: getattr(cache, name)[rows] for name in COLUMNS}
    return SplitLatents(z0=z0, **columns, **kept_statistics(cache, rows, device))


def kept_statistics(
    cache: Cache, rows: Int[np.ndarray, "image"], device: torch.device
) -> dict[str, Any]:
    """What there is of the statistics of some images, by name.

    Raises:
        CacheCorrupt: a row's bytes do not match their checksum.
    """
    columns = {
        "statistics": "pixel_statistics",
        "activations": "activation_statistics",
        "degraded": "degraded_pixel_statistics",
        "degraded_activations": "degraded_activation_statistics",
    }
    return {
        field: torch.from_numpy(cache.column(name, rows)).to(device)
        for field, name in columns.items()
        if cache.has(name, rows)
    }


def check_statistics(features: FeatureConfig, *splits: SplitLatents) -> None:
    """Refuse splits without the statistics that a model reads.

    Raises:
        CacheIncomplete: one has images and none of these.
    """
    for split in splits:
        if features.statistics and len(split) and split.statistics is None:
            raise CacheIncomplete(f"the cache holds no statistics of the pixels {_CURE}")
        if features.activations and len(split) and split.activations is None:
            raise CacheIncomplete(f"the cache holds no statistics of activations {_CURE}")


def check_degraded(features: FeatureConfig, train: SplitLatents) -> None:
    """Refuse a training fold without statistics of degraded copies.

    Raises:
        CacheIncomplete: it has none.
    """
    if train.degraded is None or (features.activations and train.degraded_activations is None):
        raise CacheIncomplete(f"the cache holds no statistics of degraded copies {_CURE}")


_CURE = (
    "of all its images: run `leak cache build --with statistics` again with the options it was "
    "built with, or train with --preset paper"
)
