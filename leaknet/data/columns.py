"""Columns of a cache as tensors, in memory or read from disk; and the folds that training reads."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int, Int64, Shaped
from torch import Tensor
from torch.utils.data import Dataset

from leakcache.device import to_device
from leakcache.errors import CacheIncomplete, TrainingError
from leakcache.processes import memory_limit
from leakcache.store.cache import AT_ONCE, Cache, LatentMoments, open_current
from leakcache.store.remote import cache_home
from leaknet.config import (
    ACTIVATIONS,
    DEGRADED_ACTIVATIONS,
    DEGRADED_PIXELS,
    PIXELS,
    Z0,
    RunConfig,
)

TEXTS = ("labels", "groups", "folds", "hashes", "paths")
COLUMNS = (Z0, PIXELS, ACTIVATIONS, DEGRADED_PIXELS, DEGRADED_ACTIVATIONS)
CPU = torch.device("cpu")
IN_MEMORY = 0.25
"""Part of the memory limit that the columns of a fold may take."""
VALUE_BYTES = 2


@dataclass(frozen=True)
class ImageColumns:
    """Columns of some images, in the cache's order.

    Attributes:
        labels: generator of each image.
        groups: prompt group of each image.
        folds: fold of each image.
        hashes: SHA-256 of each image file, in hexadecimal; decides its evaluation noise.
        paths: of each image, relative to the data root.
        columns: by name, one row an image, in the stored type and on one device; tensors, or
            stored columns where these would not fit into memory: `z0` (image view channel height
            width), `pixel_statistics` and `activation_statistics` (image view value),
            `degraded_pixel_statistics` and `degraded_activation_statistics` (image copy size
            value).
    """

    labels: Shaped[np.ndarray, "image"]
    groups: Shaped[np.ndarray, "image"]
    folds: Shaped[np.ndarray, "image"]
    hashes: Shaped[np.ndarray, "image"]
    paths: Shaped[np.ndarray, "image"]
    columns: Mapping[str, Tensor | StoredColumn]

    def __len__(self) -> int:
        return len(self.labels)

    def __contains__(self, name: str) -> bool:
        return name in self.columns

    def __getitem__(self, name: str) -> Tensor:
        """The column of this name, in memory.

        Raises:
            CacheIncomplete: the images do not have it.
        """
        self.require([name])
        found = self.columns[name]
        return found.read() if isinstance(found, StoredColumn) else found

    def require(self, names: Iterable[str]) -> None:
        """Refuse images that lack one of these columns.

        Raises:
            CacheIncomplete: names the first missing column and the command that fills it.
        """
        for name in names if len(self) else ():
            if name not in self.columns:
                raise CacheIncomplete(
                    f"the cache lacks the column {name}: run `leak cache build --for best` "
                    "again with the options it was built with, or train with --preset paper"
                )

    @property
    def device(self) -> torch.device:
        """Where the columns are; the CPU where there are none."""
        return next((values.device for values in self.columns.values()), CPU)

    @property
    def z0(self) -> Float[Tensor, "image view channel height width"]:
        """Clean latents; raises as `require`."""
        return self[Z0]

    @property
    def views(self) -> int:
        """Crops of each image."""
        return self.columns[Z0].shape[1] if Z0 in self.columns else 1

    @property
    def shape(self) -> tuple[int, int, int] | None:
        """Channel, height and width of one latent; None without latents."""
        if Z0 not in self.columns:
            return None
        channel, height, width = self.columns[Z0].shape[2:]
        return channel, height, width

    def targets(self, classes: tuple[str, ...]) -> Int64[Tensor, "image"]:
        """Class number of each image, on the device; -1 for a generator not among `classes`."""
        number = {name: index for index, name in enumerate(classes)}
        known = [number.get(label, -1) for label in self.labels.tolist()]
        return torch.tensor(known, dtype=torch.int64, device=self.device)

    def to(self, device: torch.device) -> ImageColumns:
        """The same images with their columns on another device."""
        return self._with_columns(lambda values: values.to(device))

    def take(self, rows: Int[np.ndarray, "k"]) -> ImageColumns:
        """The images at these positions, in that order."""
        texts = {name: getattr(self, name)[rows] for name in TEXTS}
        return replace(self._with_columns(lambda values: values[rows]), **texts)

    def with_column(self, name: str, values: Tensor) -> ImageColumns:
        """The same images with one column added or replaced."""
        return replace(self, columns={**self.columns, name: values})

    def _with_columns(self, change: Callable[[Any], Tensor | StoredColumn]) -> ImageColumns:
        columns = {name: change(values) for name, values in self.columns.items()}
        return replace(self, columns=columns)

    def batches(self, size: int) -> Iterator[ImageColumns]:
        """All images, a few at a time."""
        for start in range(0, len(self), size):
            yield self.take(np.arange(start, min(start + size, len(self))))


def window_size(column: StoredColumn) -> int:
    """Images of a column of which two windows take the part of memory that a fold may take."""
    each = VALUE_BYTES * column.shape[1:].numel()
    return max(1, int(IN_MEMORY * memory_limit() / 2 / each))


def load_fold(
    cache: Cache, fold: str, names: Iterable[str], device: torch.device = CPU
) -> ImageColumns:
    """Read columns of one fold whole; raises as `load_columns`."""
    return load_columns(cache, cache.rows(fold), names, device)


def load_columns(
    cache: Cache,
    rows: Int[np.ndarray, "image"],
    names: Iterable[str] | None = None,
    device: torch.device = CPU,
) -> ImageColumns:
    """Columns of some images; all columns that the cache has, without `names`.

    They are read at once where they take at most a quarter of `memory_limit`, and otherwise batch
    by batch. In memory z0 takes 8 KiB an image for 4×32×32, statistics of pixels
    182 KiB, those of activations 366 KiB and those of two degraded copies 268 KiB; on disk
    statistics take half.

    Raises:
        CacheIncomplete: the cache lacks a column.
        CacheCorrupt: the bytes of a row do not match their checksum.
    """
    texts = {name: getattr(cache, name)[rows] for name in TEXTS}
    wanted = [n for n in COLUMNS if cache.has(n, rows)] if names is None else list(names)
    stored = {name: StoredColumn(cache, name, rows, device) for name in wanted if len(rows)}
    size = sum(column.shape.numel() for column in stored.values()) * VALUE_BYTES
    read = size <= IN_MEMORY * memory_limit()
    columns = {name: column.read() if read else column for name, column in stored.items()}
    return ImageColumns(**texts, columns=columns)


class LatentDataset(Dataset[tuple[Tensor, int]]):
    """Images of one fold: a column's values, read from disk when asked for, and the class number.

    Attributes:
        classes: known generators, in the order of class numbers.
        labels: generator of each image, one of `classes` but in the fold "open".
    """

    def __init__(self, cache: str | Path, fold: str = "train", column: str = "z0") -> None:
        """Open a cache.

        Args:
            cache: its folder, or URL.
            fold: train, val, test, or open for unknown generators.
            column: in `leakcache.store.columns`. z0 is view × channel × height × width.

        Raises:
            CacheError: the cache is not finished or lacks the column.
        """
        self._cache = open_current(cache_home(cache) / ("open" if fold == "open" else "closed"))
        self._rows, self._column = self._cache.rows(fold), column
        self._cache.require([column], self._rows)
        self.classes = self._cache.classes
        self.labels = self._cache.labels[self._rows]

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        if not -len(self) <= index < len(self):
            raise IndexError(f"{index} of {len(self)} images")
        return self.__getitems__([index])[0]

    def __getitems__(self, indices: Sequence[int]) -> list[tuple[Tensor, int]]:
        """Several images by one read; a `DataLoader` calls it for each batch.

        The class number of an unknown generator is -1.
        """
        rows = self._rows[np.array(indices, np.int64)]
        values = load_columns(self._cache, rows, [self._column])[self._column]
        numbers = {name: number for number, name in enumerate(self.classes)}
        labels = self._cache.labels[rows].tolist()
        return [(row, numbers.get(name, -1)) for row, name in zip(values, labels, strict=True)]


@dataclass(frozen=True)
class StoredColumn:
    """A column of some images of a cache.

    Attributes:
        cache: that holds it.
        name: of the column.
        rows: positions of the images in the cache.
        device: that values are read to.
    """

    cache: Cache
    name: str
    rows: Int[np.ndarray, "image"]
    device: torch.device

    def __len__(self) -> int:
        return len(self.rows)

    @cached_property
    def shape(self) -> torch.Size:
        """Number of images, then the shape of one image's values."""
        return torch.Size([len(self), *self.cache.row_shape(self.name)])

    def __getitem__(self, rows: Int[np.ndarray, "k"]) -> StoredColumn:
        """The column of the images at these positions; nothing is read."""
        return replace(self, rows=self.rows[rows])

    def to(self, device: torch.device) -> StoredColumn:
        """The same column, read to another device."""
        return replace(self, device=device)

    def read(self) -> Tensor:
        """The values; raises as `leakcache.store.cache.Cache.column`."""
        return to_device(torch.from_numpy(self.cache.column(self.name, self.rows)), self.device)


class ShuffledWindows:
    """Random batches of a column on disk, which is read once an epoch, whole files at a time.

    The files are taken in random order; a window has all images of as many as fit, and its images
    are shuffled. The next window is read while one is used.

    Attributes:
        column: of the images.
        size: images of a window at least, where there are so many.
    """

    def __init__(self, column: StoredColumn, size: int) -> None:
        self.column, self.size = column, size
        self._shards = column.cache.shards(column.name, column.rows)
        self._place = torch.full((len(column),), -1)
        self._values = torch.empty(0)

    def epoch(
        self, images: Int64[Tensor, "image"], generator: torch.Generator
    ) -> Iterator[Int64[Tensor, "window"]]:
        """Positions of these images, a window at a time, each once in random order."""
        windows = self._windows(images, generator)
        with ThreadPoolExecutor(1) as pool:
            pending = pool.submit(self._read, windows[0])
            for number, window in enumerate(windows):
                self._values = pending.result()
                self._place.fill_(-1)
                self._place[window] = torch.arange(len(window))
                if number + 1 < len(windows):
                    pending = pool.submit(self._read, windows[number + 1])
                yield window[torch.randperm(len(window), generator=generator)]

    def __getitem__(self, chosen: tuple[Int64[Tensor, "k"], Int64[Tensor, "k"]]) -> Tensor:
        """One view of each of these images; those outside the window are read one by one."""
        images, views = chosen
        places = self._place[images.cpu()]
        if len(places) and int(places.min()) >= 0:
            return to_device(self._values[places, views.cpu()], self.column.device)
        values = self._read(images.cpu())
        return to_device(values[torch.arange(len(values)), views.cpu()], self.column.device)

    def _windows(
        self, images: Int64[Tensor, "image"], generator: torch.Generator
    ) -> list[Int64[Tensor, "window"]]:
        """Images of whole files, in the order of the cache, whose files are in random order."""
        shards = torch.from_numpy(self._shards)[images]
        files, number = torch.unique(shards, return_inverse=True)
        turn = torch.randperm(len(files), generator=generator)[number]
        counts = torch.bincount(turn).cumsum(0)
        window = torch.div(counts - 1, self.size, rounding_mode="floor")[turn]
        return [images[window == index] for index in torch.unique(window)]

    def _read(self, images: Int64[Tensor, "k"]) -> Tensor:
        return self.column[images.numpy()].to(torch.device("cpu")).read()


@dataclass(frozen=True)
class TrainingData:
    """The training and validation folds, and the moments of the first.

    Attributes:
        train: images to learn from.
        val: images by which the best epoch is chosen; the statistics branch learns from them too.
        moments: of the clean training latents; all that standardisation needs.
    """

    train: ImageColumns
    val: ImageColumns
    moments: LatentMoments

    @classmethod
    def load(cls, cache: Cache, config: RunConfig, device: torch.device) -> TrainingData:
        """Read the columns of both folds that a model of this configuration reads.

        Raises:
            CacheIncomplete: the cache lacks one of them.
        """
        train = load_fold(cache, "train", config.columns(), device)
        val = load_fold(cache, "val", config.columns(training=False), device)
        return cls(train, val, cache.moments("train"))


def check_trainable(data: TrainingData, config: RunConfig, classes: tuple[str, ...]) -> None:
    """Refuse data that cannot be learnt from, in one line.

    Raises:
        CacheIncomplete: a column that the model reads is missing.
        TrainingError: fewer than two classes, a class without training images, too little
            validation data to choose an epoch by, or latents that are not finite.
    """
    data.train.require(config.columns())
    data.val.require(config.columns(training=False))
    if len(classes) < 2:
        raise TrainingError(
            f"the cache holds {len(classes)} generator(s) in the closed set: attribution needs two"
        )
    empty = sorted(set(classes) - set(data.train.labels.tolist()))
    if empty:
        raise TrainingError(
            f"no training images of {', '.join(empty)}: give them some, or leave them out"
        )
    if len(set(data.val.labels.tolist())) < 2:
        raise TrainingError(
            f"the validation fold holds {len(data.val)} images of fewer than two generators: "
            "the best epoch cannot be chosen; change the split"
        )
    for split in (data.train, data.val):
        if Z0 not in split:
            continue
        for batch in split.batches(AT_ONCE):
            bad = torch.nonzero(~torch.isfinite(batch.z0).flatten(1).all(dim=1))
            if len(bad):
                path = batch.paths[int(bad[0])]
                raise TrainingError(f"the latent of {path} is not finite: run `leak cache verify`")
