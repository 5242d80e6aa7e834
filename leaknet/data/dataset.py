"""Columns of a cache as a torch data set."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from torch import Tensor
from torch.utils.data import Dataset

from leakcache.store.changes import open_current
from leakcache.store.remote import cache_home
from leaknet.data.columns import load_columns


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
            column: in `leakcache.columns.table`. z0 is view × channel × height × width.

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
