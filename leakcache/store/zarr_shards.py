"""The arrays of latents on disk: Zarr v3, sharded, checksummed.

Only this module, `leakcache.store.cache` and `leakcache.store.array_store` know zarr.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import zarr
from jaxtyping import Float
from zarr.codecs import Crc32cCodec

from leakcache.errors import CacheCorrupt

ARRAYS = "latents.zarr"
SHARD = 256
"""Images in one shard: the unit of writing, of resuming and of fast reading."""
CHUNK = 16
"""Images in one inner chunk: the unit of random reading and of one checksum."""
DCT_CACHED = 16
"""Side of the block of DCT coefficients kept; smaller blocks are corners of it."""

Latents = Float[np.ndarray, "image view channel height width"]
Coefficients = Float[np.ndarray, "image view channel size size"]


def dct_side(latent_shape: tuple[int, ...]) -> int:
    """Side of the cached block of coefficients for latents of this shape."""
    return min(DCT_CACHED, *latent_shape[-2:])


class ShardArrays:
    """Latents and coefficients, written one whole shard at a time and read back the same way.

    Attributes:
        per_shard: images in one shard.
    """

    def __init__(self, group: zarr.Group, folder: Path) -> None:
        # Else rows that are all zero would have no file, and none could be told from a lost one.
        dense = {"write_empty_chunks": True}
        self._z0 = member(group, "z0", folder).with_config(dense)
        self._dct = member(group, "dct_low", folder).with_config(dense)
        self._folder = folder
        self.per_shard = int(self._z0.shards[0])

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
    def resume(cls, folder: Path) -> ShardArrays:
        """Open arrays that a killed build may have left, for writing."""
        for unfinished in (folder / ARRAYS).rglob("*.partial"):
            unfinished.unlink()
        return cls(open_group(folder, "r+"), folder)

    @classmethod
    def open(cls, folder: Path) -> ShardArrays:
        """Open existing arrays for reading."""
        return cls(open_group(folder, "r"), folder)

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
        return -(-self.images // self.per_shard)

    def rows(self, shard: int) -> slice:
        """The rows that one shard holds."""
        return slice(shard * self.per_shard, min((shard + 1) * self.per_shard, self.images))

    def write(self, shard: int, latents: Latents, coefficients: Coefficients) -> None:
        """Write one shard whole, in place of what a killed build may have left there."""
        for array, values in ((self._z0, latents), (self._dct, coefficients)):
            # zarr would read it first, to keep what is not overwritten, and fail on half of it.
            _file(array, shard, self._folder).unlink(missing_ok=True)
            array[self.rows(shard)] = values

    def read(self, shard: int) -> Latents:
        """Latents of one shard.

        Raises:
            CacheCorrupt: the stored bytes do not match their checksum.
        """
        return self._read(self._z0, shard)

    def read_dct(self, shard: int) -> Coefficients:
        """Low DCT coefficients of one shard; raises as `read`."""
        return self._read(self._dct, shard)

    def check(self, shard: int) -> None:
        """Read one shard through its checksums; raises as `read`."""
        self.read(shard)
        self.read_dct(shard)

    def _read(self, array: Any, shard: int) -> np.ndarray:
        try:
            refuse_missing(array, shard, self._folder)
            values: np.ndarray = array[self.rows(shard)]
        except (ValueError, OSError, KeyError) as error:
            raise CacheCorrupt(
                f"{self._folder}: shard {shard} of {array.basename} is damaged ({error}); "
                "`leak cache build --repair` encodes what is lost again"
            ) from error
        return values


def member(group: zarr.Group, name: str, folder: Path) -> Any:
    """An array or group of the cache in `folder`; raises `CacheCorrupt` where it is damaged."""
    try:
        return group[name]
    except (OSError, ValueError, KeyError) as error:
        raise CacheCorrupt(
            f"{folder}: {name} is not readable ({error}); build with --fresh"
        ) from error


def refuse_missing(array: Any, first: int, folder: Path) -> None:
    """Raise FileNotFoundError where the file of a chunk, or shard, is missing or empty.

    To zarr such a file stands for zeros: no checksum would notice.
    """
    file = _file(array, first, folder)
    if not file.is_file() or file.stat().st_size == 0:
        raise FileNotFoundError(f"{file.relative_to(folder)} is missing or empty")


def _file(array: Any, first: int, folder: Path) -> Path:
    key: str = array.metadata.encode_chunk_key((first, *(0,) * (array.ndim - 1)))
    return folder / ARRAYS / str(array.path) / key


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


def open_group(folder: Path, mode: Any) -> zarr.Group:
    """The arrays of the cache in `folder`; raises `CacheCorrupt` where there are none."""
    try:
        return zarr.open_group(folder / ARRAYS, mode=mode)
    except (OSError, ValueError, KeyError) as error:
        raise CacheCorrupt(
            f"{folder}: no readable {ARRAYS} ({error}); build with --fresh"
        ) from error
