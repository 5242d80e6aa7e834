"""A column of images that stays on disk: what is larger than memory is read batch by batch."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import torch
from jaxtyping import Int, Int64
from torch import Tensor

from leakcache.device import to_device
from leakcache.store.cache import Cache


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
