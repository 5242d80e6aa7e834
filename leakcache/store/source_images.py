"""The image files behind a table of content hashes, and columns that methods derive from them."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from jaxtyping import Int, Shaped, UInt8
from PIL import Image

from leakcache.errors import CacheStale
from leakcache.images.archive import in_order, read_image
from leakcache.images.decode import decode, decoded
from leakcache.images.preprocess import canonical_bytes
from leakcache.progress import track
from leakcache.store.cache import Cache
from leakcache.store.column import on_track
from leakcache.store.column_store import ColumnStore, Compute
from leakcache.store.columns import Cut
from leakcache.store.zarr_column import ColumnSpec

AHEAD = 16
"""Decoded images in flight at most."""


class Rows:
    """Some images' values of a column, indexed by position; small ones are kept in memory.

    Attributes:
        shape: number of images, then the shape of one image's values.
    """

    IN_MEMORY = 2**30
    """Bytes up to which all values are read once and kept."""

    def __init__(self, store: ColumnStore, spec: ColumnSpec, hashes: Sequence[str]) -> None:
        self._store, self._spec, self._hashes = store, spec, list(hashes)
        self.shape = (len(self._hashes), *spec.shape)
        self._kept: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self._hashes)

    def __getitem__(self, rows: slice | Int[np.ndarray, "k"]) -> Shaped[np.ndarray, "k *row"]:
        """Values at these positions, in their order; raises as `ColumnStore.read`."""
        if self._kept is None and len(self) * self._spec.row_bytes <= self.IN_MEMORY:
            self._kept = self._store.read(self._spec, self._hashes)
        if self._kept is not None:
            return self._kept[rows]
        places = np.arange(len(self))[rows].tolist()
        return self._store.read(self._spec, [self._hashes[place] for place in places])


@dataclass(frozen=True)
class SourceImages:
    """Some image files, by position.

    Attributes:
        files: where each lies.
        hashes: SHA-256 of each, in hexadecimal.
        home: cache folder whose store holds what is derived from them.
        canonical: side of the canonical form that every image is brought to first; None for
            images as they are.
    """

    files: tuple[Path, ...]
    hashes: tuple[str, ...]
    home: Path
    canonical: int | None = None

    @classmethod
    def of(cls, cache: Cache, rows: Int[np.ndarray, "k"]) -> SourceImages:
        """The files of some rows of a cache."""
        root = Path(cache.manifest.data)
        return cls(
            tuple(root / path for path in cache.paths[rows].tolist()),
            tuple(cache.hashes[rows].tolist()),
            cache.path.parent,
            cache.manifest.encoding.canonical_size,
        )

    def __len__(self) -> int:
        return len(self.files)

    def take(self, places: Int[np.ndarray, "k"]) -> SourceImages:
        """The files at these positions, in that order."""
        chosen = places.tolist()
        files = tuple(self.files[place] for place in chosen)
        return replace(self, files=files, hashes=tuple(self.hashes[place] for place in chosen))

    def data(self, row: int) -> bytes:
        """Bytes of one file, of its canonical form on the canonical track.

        Raises:
            CacheStale: the file is missing, or its content has changed since it was indexed.
            ImageError: it has to be decoded for its canonical form, and cannot be.
        """
        path = self.files[row]
        try:
            content = read_image(path)
        except OSError as error:
            raise CacheStale(f"{path}: cannot be read any more ({error.strerror})") from error
        if hashlib.sha256(content).hexdigest() != self.hashes[row]:
            raise CacheStale(f"{path}: has changed since the cache was built; build it again")
        if not self.canonical:
            return content
        with decoded(content) as image:
            return canonical_bytes(image, self.canonical)

    def image(self, row: int) -> Image.Image:
        """One image as 8-bit RGB; raises as `data`, and ImageError."""
        content = self.data(row)
        if self.canonical is None:
            return decode(content)
        with Image.open(io.BytesIO(content), formats=("JPEG",)) as file:
            return file.convert("RGB")

    def cut(self, cut: Cut, rows: Int[np.ndarray, "k"]) -> UInt8[np.ndarray, "k view side side 3"]:
        """Decode and cut the images at these positions, on threads; raises as `image`."""

        def views(row: int) -> UInt8[np.ndarray, "view side side 3"]:
            if self.canonical:
                return cut(self.image(row))
            with decoded(self.data(row)) as image:
                return cut(image)

        return np.stack(list(in_order(views, rows.tolist(), ahead=AHEAD)))

    def pixels(self, cut: Cut) -> Rows:
        """Pixels of every image, (image, view, side, side, 3), from the store.

        What it lacks is decoded once and stored; raises as `image` and `ColumnStore`.
        """
        return self.derived(cut.plain_spec, lambda rows: self.cut(cut, rows))

    def derived(self, spec: ColumnSpec, compute: Compute) -> Rows:
        """Values of every image, stored by content hash.

        Args:
            spec: name, shape and type, and all that the values depend on.
            compute: gives the values at some positions of this table, in order; called for images
                that have none yet, a shard at most at a time.
        """
        spec = on_track(spec, self.canonical)
        store = ColumnStore(self.home)
        missing = len(store.missing(spec, self.hashes))
        if missing:
            with track(spec.name, missing, "images") as advance:
                store.fill(spec, self.hashes, compute, advance)
        return Rows(store, spec, self.hashes)
