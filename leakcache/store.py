"""The latent cache on disk: Zarr v3, sharded, checksummed. The only module that knows zarr."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from jaxtyping import Float, Int
from zarr.codecs import Crc32cCodec

from leakcache.errors import CacheCorrupt
from leakcache.manifest import CacheManifest
from leakcache.statistics import LatentMoments, MomentTable

ARRAYS = "latents.zarr"
SHARD = 256
"""Images in one shard: the unit of writing, of resuming and of fast reading."""
CHUNK = 16
"""Images in one inner chunk: the unit of random reading and of one checksum."""
DCT_CACHED = 16
"""Side of the block of DCT coefficients kept; smaller blocks are corners of it."""

Latents = Float[np.ndarray, "image view channel height width"]

_TEXT = ("path", "label", "group", "fold", "sha256")


def dct_side(latent_shape: tuple[int, ...]) -> int:
    """Side of the cached block of coefficients for latents of this shape."""
    return min(DCT_CACHED, *latent_shape[-2:])


class ShardArrays:
    """Latents and coefficients, written one whole shard at a time and read back the same way."""

    def __init__(self, group: zarr.Group, folder: Path) -> None:
        self._z0: Any = group["z0"]
        self._dct: Any = group["dct_low"]
        self._folder = folder

    @classmethod
    def create(
        cls, folder: Path, images: int, latent_shape: tuple[int, int, int, int], stored: str
    ) -> ShardArrays:
        """Lay out empty arrays in `folder`; nothing but metadata is written yet."""
        group = zarr.open_group(folder / ARRAYS, mode="w")
        view, channel, _, _ = latent_shape
        size = dct_side(latent_shape)
        _create(group, "z0", (images, *latent_shape), stored)
        _create(group, "dct_low", (images, view, channel, size, size), stored)
        return cls(group, folder)

    @classmethod
    def open(cls, folder: Path, mode: str = "r") -> ShardArrays:
        """Open existing arrays for reading (`r`) or for writing shards (`r+`)."""
        return cls(_open_group(folder, mode), folder)

    @property
    def images(self) -> int:
        """Number of rows."""
        return int(self._z0.shape[0])

    @property
    def latent_shape(self) -> tuple[int, int, int, int]:
        """View, channel, height, width."""
        view, channel, height, width = self._z0.shape[1:]
        return (view, channel, height, width)

    @property
    def shards(self) -> int:
        """Number of shards; the last may be partly filled."""
        return -(-self.images // SHARD)

    def write(self, shard: int, latents: Latents, coefficients: Latents) -> None:
        """Write one shard whole."""
        rows = slice(shard * SHARD, shard * SHARD + len(latents))
        self._z0[rows] = latents
        self._dct[rows] = coefficients

    def read(self, shard: int) -> Latents:
        """Latents of one shard.

        Raises:
            CacheCorrupt: the stored bytes do not match their checksum.
        """
        return self._read(self._z0, shard)

    def read_dct(self, shard: int) -> Latents:
        """Low DCT coefficients of one shard; raises as `read`."""
        return self._read(self._dct, shard)

    def _read(self, array: Any, shard: int) -> Latents:
        try:
            values: Latents = array[shard * SHARD : (shard + 1) * SHARD]
        except (ValueError, OSError, KeyError) as error:
            raise CacheCorrupt(
                f"{self._folder}: shard {shard} of {array.basename} is damaged ({error}); "
                "`leak cache build --repair` encodes what is lost again"
            ) from error
        return values


def _as_text(column: np.ndarray) -> np.ndarray:
    # zarr reads variable-width strings, which numpy does not cast to fixed-width ones.
    return np.array(column.tolist(), dtype=np.str_)


def _create(group: zarr.Group, name: str, shape: tuple[int, ...], dtype: str) -> None:
    group.create_array(
        name,
        shape=shape,
        dtype=dtype,
        chunks=(min(CHUNK, SHARD), *shape[1:]),
        shards=(SHARD, *shape[1:]),
        # Compression does not pay on latents (docs/PERFORMANCE.md); the checksum does.
        compressors=(Crc32cCodec(),),
        fill_value=0,
    )


def _open_group(folder: Path, mode: Any) -> zarr.Group:
    try:
        return zarr.open_group(folder / ARRAYS, mode=mode)
    except (OSError, ValueError, KeyError) as error:
        raise CacheCorrupt(
            f"{folder}: no readable {ARRAYS} ({error}); build with --fresh"
        ) from error


def write_table(folder: Path, columns: Mapping[str, list[Any]], moments: MomentTable) -> None:
    """Write what is known of each image, and the moments, beside the latents.

    Args:
        folder: the cache's folder.
        columns: `path, label, group, fold, sha256` (text), `bytes` (int), `accepted` (bool).
        moments: of the accepted images.
    """
    group = zarr.open_group(folder / ARRAYS, mode="r+")
    for name, values in columns.items():
        dtype: Any = str if name in _TEXT else {"bytes": "int64", "accepted": "bool"}[name]
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
    )
    array[...] = values


class LatentCache:
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
        self._group = _open_group(path, "r")
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
    def open(cls, path: Path) -> LatentCache:
        """Open a finished cache.

        Raises:
            CacheIncomplete: its build has not finished.
            CacheCorrupt: its manifest or arrays are damaged.
        """
        return cls(path, CacheManifest.read(path))

    def __len__(self) -> int:
        return len(self._rows)

    @property
    def accepted_hashes(self) -> frozenset[str]:
        """Content hashes of the accepted images."""
        return frozenset(self.hashes.tolist())

    @property
    def classes(self) -> tuple[str, ...]:
        """Closed labels, in the order of class numbers."""
        return self.manifest.classes

    def rows(self, fold: str) -> Int[np.ndarray, " image"]:
        """Rows of one fold, in canonical order."""
        return np.flatnonzero(self.folds == fold)

    def latents(self, rows: Int[np.ndarray, " image"]) -> Latents:
        """z0 of these rows, in their order, in the stored type.

        Raises:
            CacheCorrupt: a shard's bytes do not match their checksum.
        """
        return self._gather(rows, self._arrays.read, self.manifest.latent_shape)

    def coefficients(self, rows: Int[np.ndarray, " image"]) -> Latents:
        """Low DCT coefficients of z0 of these rows; raises as `latents`."""
        view, channel, _, _ = self.manifest.latent_shape
        size = dct_side(self.manifest.latent_shape)
        return self._gather(rows, self._arrays.read_dct, (view, channel, size, size))

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
        self._arrays.read(shard)
        self._arrays.read_dct(shard)

    @cached_property
    def _moment_table(self) -> MomentTable:
        group: Any = self._group["moments"]
        cells = tuple((label, fold) for label, fold in group.attrs["cells"])
        return MomentTable(cells, {name: array[...] for name, array in group.arrays()})

    def _column(self, name: str) -> np.ndarray:
        array: Any = self._group[name]
        try:
            values: np.ndarray = array[...]
        except (ValueError, OSError, KeyError) as error:
            raise CacheCorrupt(
                f"{self.path}: {name} is damaged ({error}); build with --fresh"
            ) from error
        return values

    def _text(self, name: str) -> np.ndarray:
        return _as_text(self._column(name)[self._rows])

    def _gather(
        self, rows: np.ndarray, read: Callable[[int], Latents], shape: tuple[int, ...]
    ) -> Latents:
        stored = self._rows[rows]
        gathered = np.empty((len(rows), *shape), self.manifest.encoding.stored)
        for shard in np.unique(stored // SHARD):
            here = np.flatnonzero(stored // SHARD == shard)
            gathered[here] = read(int(shard))[stored[here] - shard * SHARD]
        return gathered
