"""Values derived from images, one row an image, kept by content hash: pixels, trajectories, losses.

DIR/rows.json         what the rows are: everything they depend on but the images' content
DIR/latents.zarr      the array `values`, sharded and checksummed like latents
DIR/done/7.json       shard 7 is on disk, and these are the hashes of its rows

Rows are appended, one whole shard at a time, and a shard counts once its file in `done` is there.
So what a killed run left is either whole or ignored, and the same image is never computed twice,
whatever data set, fold or limit it is asked for in.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from jaxtyping import Int, Shaped
from zarr.codecs import Crc32cCodec

from leakcache.errors import CacheCorrupt, CacheError, CacheStale, WeightsError
from leakcache.store.manifest import write_json
from leakcache.store.zarr_shards import ARRAYS, member, open_group, refuse_missing

__all__ = ["FILE", "Compute", "RowSpec", "RowStore", "Rows", "stored_spec"]


# What the rows of a store are: shape, type and all that their values depend on.

FILE = "rows.json"
FORMAT = 1
SHARD_BYTES = 2**26
"""Rows of one shard take at most this many bytes: the unit of writing and of resuming."""
SHARD = 256
CHUNK_BYTES = 2**18
"""Rows of one inner chunk, the unit of random reading, take about this many."""


@dataclass(frozen=True)
class RowSpec:
    """What the rows of a store are.

    Attributes:
        name: of the store's folder; letters, digits and dashes.
        shape: of one row.
        dtype: of its values, such as "uint8" or "float16".
        depends: all settings that the values depend on, weights' hashes among them; JSON values.
        shard: rows of one shard at most; few where a row takes long, as a kill loses what has
            been computed of the next.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str
    depends: Mapping[str, Any] = field(default_factory=dict)
    shard: int = SHARD

    @property
    def fingerprint(self) -> str:
        """Hash of all of it."""
        content = json.dumps([FORMAT, asdict(self)], sort_keys=True, default=list)
        return hashlib.sha256(content.encode()).hexdigest()

    @property
    def row_bytes(self) -> int:
        """Bytes of one row."""
        return int(np.prod(self.shape, dtype=np.int64)) * np.dtype(self.dtype).itemsize

    @property
    def per_shard(self) -> int:
        """Rows of one shard."""
        return max(1, min(self.shard, SHARD_BYTES // max(1, self.row_bytes)))

    @property
    def per_chunk(self) -> int:
        """Rows of one inner chunk; divides `per_shard`."""
        most = max(1, min(self.per_shard, CHUNK_BYTES // max(1, self.row_bytes)))
        return max(n for n in range(1, most + 1) if self.per_shard % n == 0)


def stored_spec(folder: Path) -> RowSpec:
    """What the rows in a store's folder are.

    Raises:
        CacheCorrupt: its description is damaged.
    """
    path = folder / FILE
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        shape, shard = tuple(found["shape"]), found.get("shard", SHARD)
        return RowSpec(found["name"], shape, found["dtype"], found["depends"], shard)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CacheCorrupt(f"{path}: is damaged ({error}); delete this folder") from error


Compute = Callable[[Int[np.ndarray, "k"]], Shaped[np.ndarray, "k *row"]]
"""From positions among the images asked for to their rows."""


class RowStore:
    """Rows of one spec on disk, found by the content hash of their image."""

    def __init__(self, folder: Path, spec: RowSpec) -> None:
        """Open the store in `folder`, or lay out an empty one.

        Raises:
            CacheStale: the folder holds rows of another spec.
            CacheCorrupt: it is damaged.
            CacheError: it cannot be written.
        """
        self.folder = folder
        self.spec = spec
        self._done = folder / "done"
        if (folder / FILE).is_file():
            self._refuse_other()
        else:
            with self._locked():
                self._create()
        self._load()

    def __contains__(self, sha256: object) -> bool:
        return sha256 in self._where

    def __len__(self) -> int:
        return len(self._where)

    @property
    def shards(self) -> int:
        """Number of finished shards."""
        return len(self._shards)

    def missing(self, hashes: Sequence[str]) -> list[int]:
        """Positions of the hashes that have no row, each hash once."""
        first = {sha256: place for place, sha256 in reversed(list(enumerate(hashes)))}
        return sorted(place for sha256, place in first.items() if sha256 not in self._where)

    def fill(
        self, hashes: Sequence[str], compute: Compute, advance: Callable[[int], object]
    ) -> int:
        """Compute and keep the rows that are missing; returns how many.

        Args:
            hashes: content hashes of the images that are asked for.
            compute: gives the rows at some positions of `hashes`, `per_shard` at most at a time.
            advance: called with the number of rows done since the last call.

        Raises:
            CacheError: another process is writing here, or the disk is full.
        """
        if not self.missing(hashes):
            return 0
        with self._locked():
            self._load()
            missing = np.array(self.missing(hashes), np.int64)
            for start in range(0, len(missing), self.spec.per_shard):
                rows = missing[start : start + self.spec.per_shard]
                self._append([hashes[row] for row in rows.tolist()], compute(rows))
                advance(len(rows))
        return len(missing)

    def read(self, hashes: Sequence[str]) -> Shaped[np.ndarray, "k *row"]:
        """Rows of these images, in their order.

        Raises:
            CacheCorrupt: a row is missing, or its bytes do not match their checksum.
        """
        try:
            stored = np.array([self._where[sha256] for sha256 in hashes], np.int64)
        except KeyError as error:
            raise CacheCorrupt(f"{self.folder}: no row of image {error}; run it again") from error
        values = np.empty((len(stored), *self.spec.shape), self.spec.dtype)
        shards, offsets = np.divmod(stored, self.spec.per_shard)
        for shard in np.unique(shards).tolist():
            here = np.flatnonzero(shards == shard)
            values[here] = self._read(shard, offsets[here])
        return values

    def damaged(self) -> dict[int, str]:
        """Read every finished shard through its checksums; by shard, what is wrong with it."""
        found = {}
        for shard, hashes in self._shards.items():
            try:
                self._read(shard, np.arange(len(hashes)))
            except CacheCorrupt as error:
                found[shard] = str(error)
        return found

    def forget(self, shards: Sequence[int]) -> None:
        """Take shards out; the next `fill` computes their rows again."""
        with self._locked():
            for shard in shards:
                (self._done / f"{shard}.json").unlink(missing_ok=True)
            self._load()

    def _create(self) -> None:
        spec = self.spec
        self._done.mkdir(parents=True, exist_ok=True)
        group = zarr.open_group(self.folder / ARRAYS, mode="w")
        group.create_array(
            "values",
            shape=(0, *spec.shape),
            dtype=spec.dtype,
            chunks=(spec.per_chunk, *spec.shape),
            shards=(spec.per_shard, *spec.shape),
            compressors=(Crc32cCodec(),),
            fill_value=0,
        )
        write_json(self.folder / FILE, {"format": FORMAT, **asdict(spec)})

    def _refuse_other(self) -> None:
        if stored_spec(self.folder).fingerprint != self.spec.fingerprint:
            raise CacheStale(
                f"{self.folder}: holds rows made with other settings; delete this folder"
            )

    def _load(self) -> None:
        self._values = member(open_group(self.folder, "r+"), "values", self.folder).with_config(
            {"write_empty_chunks": True}
        )
        self._shards: dict[int, tuple[str, ...]] = {}
        for path in sorted(self._done.glob("*.json"), key=lambda path: int(path.stem)):
            self._shards[int(path.stem)] = tuple(_read_json(path))
        self._where = {
            sha256: shard * self.spec.per_shard + row
            for shard, hashes in self._shards.items()
            for row, sha256 in enumerate(hashes)
        }

    def _append(self, hashes: list[str], values: Shaped[np.ndarray, "k *row"]) -> None:
        shard = max(self._shards, default=-1) + 1
        first = shard * self.spec.per_shard
        rows = (shard + 1) * self.spec.per_shard
        if self._values.shape[0] < rows:
            self._values.resize((rows, *self.spec.shape))
        # zarr would read what a killed run left there first, and fail on half of it.
        self._file(shard).unlink(missing_ok=True)
        self._values[first : first + len(hashes)] = values
        write_json(self._done / f"{shard}.json", hashes)
        self._shards[shard] = tuple(hashes)
        self._where |= {sha256: first + row for row, sha256 in enumerate(hashes)}

    def _read(self, shard: int, offsets: Int[np.ndarray, "k"]) -> np.ndarray:
        first = shard * self.spec.per_shard
        try:
            refuse_missing(self._values, shard, self.folder)
            # Few rows one by one: zarr's own way of picking rows is slower than the whole shard.
            if len(offsets) * 8 < len(self._shards[shard]):
                return np.stack([self._values[first + offset] for offset in offsets.tolist()])
            whole: np.ndarray = self._values[first : first + int(offsets.max()) + 1]
        except (ValueError, OSError, KeyError) as error:
            raise CacheCorrupt(
                f"{self.folder}: shard {shard} is damaged ({error}); "
                "`leak cache build --with pixels --repair` makes pixels again, "
                "deleting the folder all else"
            ) from error
        found: np.ndarray = whole[offsets]
        return found

    def _file(self, shard: int) -> Path:
        key: str = self._values.metadata.encode_chunk_key((shard, *(0,) * len(self.spec.shape)))
        return self.folder / ARRAYS / str(self._values.path) / key

    @contextmanager
    def _locked(self) -> Iterator[None]:
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            with (self.folder / ".lock").open("w") as lock:
                try:
                    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError as error:
                    raise CacheError(
                        f"{self.folder}: another process is writing here; wait for it or stop it"
                    ) from error
                yield
        except WeightsError:
            raise  # a file that is missing, but none of these
        except OSError as error:
            raise CacheError(
                f"{self.folder}: cannot be written ({error.strerror or error}); make room; "
                "what is finished is kept"
            ) from error


def _read_json(path: Path) -> list[str]:
    try:
        content: list[str] = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise CacheCorrupt(f"{path}: is damaged ({error}); delete this file") from error
    return content


class Rows:
    """Some images' rows of a store, to be indexed by position; small ones are kept in memory.

    Attributes:
        shape: number of images, then the shape of a row.
    """

    IN_MEMORY = 2**30
    """Bytes up to which all rows are read once and kept."""

    def __init__(self, store: RowStore, hashes: Sequence[str]) -> None:
        self._store = store
        self._hashes = list(hashes)
        self.shape = (len(self._hashes), *store.spec.shape)
        self._kept: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self._hashes)

    def __getitem__(self, rows: slice | Int[np.ndarray, "k"]) -> Shaped[np.ndarray, "k *row"]:
        """Rows at these positions, in their order; raises CacheCorrupt as `RowStore.read`."""
        if self._kept is None and len(self) * self._store.spec.row_bytes <= self.IN_MEMORY:
            self._kept = self._store.read(self._hashes)
        if self._kept is not None:
            return self._kept[rows]
        places = np.arange(len(self))[rows].tolist()
        return self._store.read([self._hashes[place] for place in places])
