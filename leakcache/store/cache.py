"""A cache on disk: who is in it, their latents and the moments of those."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from jaxtyping import Int
from zarr.codecs import Crc32cCodec

from leakcache.errors import CacheCorrupt, CacheIncomplete
from leakcache.store.manifest import CacheManifest
from leakcache.store.moments import LatentMoments, MomentTable
from leakcache.store.zarr_shards import (
    ARRAYS,
    ShardArrays,
    dct_side,
    member,
    open_group,
    refuse_missing,
)

__all__ = ["Cache", "ShardArrays", "write_table"]

_TEXT = ("path", "label", "group", "fold", "sha256")


def write_table(folder: Path, columns: Mapping[str, list[Any]], moments: MomentTable) -> None:
    """Write what is known of each image, and the moments, beside the latents.

    Args:
        folder: the cache's folder.
        columns: `path, label, group, fold, sha256` (text), `bytes` (int), `encoded` and
            `accepted` (bool: there is a latent; it counts).
        moments: of the accepted images.
    """
    group = zarr.open_group(folder / ARRAYS, mode="r+")
    for name, values in columns.items():
        dtype: Any = str if name in _TEXT else "int64" if name == "bytes" else "bool"
        _write_column(
            group, name, np.asarray(values, dtype=object if dtype is str else dtype), dtype
        )
    table = group.create_group("moments", overwrite=True, attributes={"cells": list(moments.cells)})
    for name, array in moments.arrays.items():
        _write_column(table, name, array, array.dtype)


def _write_column(group: zarr.Group, name: str, values: np.ndarray, dtype: Any) -> None:
    array = group.create_array(
        name,
        shape=values.shape,
        dtype=dtype,
        chunks=tuple(max(1, side) for side in values.shape),
        compressors=(Crc32cCodec(),),
        overwrite=True,
        config={"write_empty_chunks": True},
    )
    array[...] = values


def _as_text(column: np.ndarray) -> np.ndarray:
    # zarr reads variable-width strings, which numpy does not cast to fixed-width ones.
    return np.array(column.tolist(), dtype=np.str_)


class Cache:
    """A finished cache, read-only.

    Rows are the accepted images in canonical order: by fold, label and path.

    Attributes:
        path: its folder.
        manifest: what it depends on.
        labels, groups, folds, hashes, paths: one text per image.
        sizes: bytes of each image file.
    """

    def __init__(self, path: Path, manifest: CacheManifest) -> None:
        self.path = path
        self.manifest = manifest
        self._group = open_group(path, "r")
        self._arrays = ShardArrays(self._group, path)
        self._rows = np.flatnonzero(self._column("accepted"))
        self.labels = self._text("label")
        self.groups = self._text("group")
        self.folds = self._text("fold")
        self.hashes = self._text("sha256")
        self.paths = self._text("path")
        self.sizes = self._column("bytes")[self._rows]
        if len(self._rows) != manifest.images:
            raise CacheCorrupt(
                f"{path}: holds {len(self._rows)} images, its manifest says {manifest.images}; "
                "build with --fresh"
            )

    @classmethod
    def open(cls, path: Path) -> Cache:
        """Open a finished cache.

        Raises:
            CacheIncomplete: its build has not finished.
            CacheCorrupt: its manifest or arrays are damaged.
        """
        return cls(path, CacheManifest.read(path))

    def __len__(self) -> int:
        return len(self._rows)

    def encoded_rows(self) -> dict[str, int]:
        """Row on disk by content hash, of everything that has a latent, accepted or not."""
        hashes = self._column("sha256")
        return {str(hashes[row]): int(row) for row in np.flatnonzero(self._column("encoded"))}

    @property
    def classes(self) -> tuple[str, ...]:
        """Closed labels, in the order of class numbers."""
        return self.manifest.classes

    def rows(self, fold: str) -> Int[np.ndarray, " image"]:
        """Rows of one fold, in canonical order."""
        return np.flatnonzero(self.folds == fold)

    def column(self, name: str, rows: Int[np.ndarray, " image"]) -> np.ndarray:
        """Values of one column for these rows, in their order and in the stored type.

        Args:
            name: z0, dct_low, pixel_statistics, activation_statistics, degraded_pixel_statistics or
                degraded_activation_statistics.
            rows: positions among the images of this cache.

        Raises:
            CacheIncomplete: the cache lacks the column for one of these images.
            CacheCorrupt: stored bytes do not match their checksum.
        """
        if name == "z0":
            return self._gather(rows, self._arrays.read, self.manifest.latent_shape)
        if name == "dct_low":
            view, channel, _, _ = self.manifest.latent_shape
            size = dct_side(self.manifest.latent_shape)
            return self._gather(rows, self._arrays.read_dct, (view, channel, size, size))
        from leakcache.statistics.build import COLUMNS
        from leakcache.store.derived import stored_rows

        found = stored_rows(self, rows, COLUMNS[name](self.manifest.encoding))
        if found is None:
            raise CacheIncomplete(
                f"{self.path}: holds no {name} of all these images; run "
                "`leak cache build --with statistics` again with the options it was built with"
            )
        return found

    def has(self, name: str, rows: Int[np.ndarray, " image"] | None = None) -> bool:
        """Whether the cache holds a column for these rows; for all of its images by default.

        Columns of degraded copies are held of training images alone.
        """
        if name in ("z0", "dct_low"):
            return True
        from leakcache.statistics.build import COLUMNS
        from leakcache.store.derived import holds_rows

        default = self.rows("train") if name.startswith("degraded") else np.arange(len(self))
        wanted = default if rows is None else rows
        return holds_rows(self, wanted, COLUMNS[name](self.manifest.encoding))

    def moments(self, fold: str = "train", labels: tuple[str, ...] | None = None) -> LatentMoments:
        """Moments of one fold, over all labels or the given ones."""
        table = self._moment_table
        wanted = [c for c in table.cells if c[1] == fold and (labels is None or c[0] in labels)]
        return table.total(wanted)

    def table(self) -> dict[str, np.ndarray]:
        """Every row that the build saw, accepted or not: path, label, group, fold, sha256."""
        return {name: _as_text(self._column(name)) for name in _TEXT}

    @property
    def shards(self) -> int:
        """Number of shards on disk."""
        return self._arrays.shards

    def check_shard(self, shard: int) -> None:
        """Read one shard through its checksums; raises `CacheCorrupt`."""
        self._arrays.check(shard)

    @cached_property
    def _moment_table(self) -> MomentTable:
        group = member(self._group, "moments", self.path)
        cells = tuple((label, fold) for label, fold in group.attrs["cells"])
        names = sorted(group.array_keys())
        return MomentTable(cells, {name: self._column(f"moments/{name}") for name in names})

    def _column(self, name: str) -> np.ndarray:
        array = member(self._group, name, self.path)
        try:
            refuse_missing(array, 0, self.path)
            values: np.ndarray = array[...]
        except (ValueError, OSError, KeyError) as error:
            cure = "--repair" if name.startswith("moments/") else "--fresh"
            raise CacheCorrupt(
                f"{self.path}: {name} is damaged ({error}); build with {cure}"
            ) from error
        return values

    def _text(self, name: str) -> np.ndarray:
        return _as_text(self._column(name)[self._rows])

    def _gather(
        self, rows: np.ndarray, read: Callable[[int], np.ndarray], shape: tuple[int, ...]
    ) -> np.ndarray:
        stored = self._rows[rows]
        gathered = np.empty((len(rows), *shape), self.manifest.encoding.stored)
        shards, offsets = np.divmod(stored, self._arrays.per_shard)
        for shard in np.unique(shards):
            here = np.flatnonzero(shards == shard)
            gathered[here] = read(int(shard))[offsets[here]]
        return gathered
