"""The image files behind a table of content hashes, and what is kept of them beside a cache."""

from __future__ import annotations

import hashlib
import io
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from jaxtyping import Int, UInt8
from PIL import Image

from leakcache.errors import CacheStale
from leakcache.images.canonical import canonical_bytes
from leakcache.images.decode import decode
from leakcache.images.loader import in_order
from leakcache.progress import track
from leakcache.store.array_store import Compute, Rows, RowSpec, RowStore
from leakcache.store.cache import Cache
from leakcache.store.views import Cut

AHEAD = 16
"""Decoded images in flight at most."""


@dataclass(frozen=True)
class SourceImages:
    """Some image files, by position.

    Attributes:
        files: where each lies.
        hashes: SHA-256 of each, in hexadecimal.
        kept: folder of the stores of what is derived from them.
        canonical: side of the canonical form that every image is brought to first; None for
            images as they are.
    """

    files: tuple[Path, ...]
    hashes: tuple[str, ...]
    kept: Path
    canonical: int | None = None

    @classmethod
    def of(cls, cache: Cache, rows: Int[np.ndarray, "k"]) -> SourceImages:
        """The files of some rows of a cache; what is kept lies beside its splits."""
        root, cut = Path(cache.manifest.data), cache.manifest.encoding.preprocessing
        return cls(
            tuple(root / path for path in cache.paths[rows].tolist()),
            tuple(cache.hashes[rows].tolist()),
            kept_folder(cache.path.parent),
            cut.canonical_size if cut.canonical else None,
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
            CacheStale: the file is gone, or its content has changed since it was indexed.
            ImageError: it has to be decoded for its canonical form, and cannot be.
        """
        path = self.files[row]
        try:
            content = path.read_bytes()
        except OSError as error:
            raise CacheStale(f"{path}: cannot be read any more ({error.strerror})") from error
        if hashlib.sha256(content).hexdigest() != self.hashes[row]:
            raise CacheStale(f"{path}: has changed since the cache was built; build it again")
        return canonical_bytes(decode(content), self.canonical) if self.canonical else content

    def picture(self, row: int) -> Image.Image:
        """One image as 8-bit RGB; raises as `data`, and ImageError."""
        content = self.data(row)
        if self.canonical is None:
            return decode(content)
        with Image.open(io.BytesIO(content), formats=("JPEG",)) as file:
            return file.convert("RGB")

    def cut(self, cut: Cut, rows: Int[np.ndarray, "k"]) -> UInt8[np.ndarray, "k view side side 3"]:
        """Decode and cut the images at these positions, on threads; raises as `picture`."""
        return np.stack(
            list(in_order(lambda row: cut(self.picture(row)), rows.tolist(), ahead=AHEAD))
        )

    def pixels(self, cut: Cut) -> Rows:
        """Pixels of every image, (image, view, side, side, 3), from the pixel cache.

        What is not in it yet is decoded once and kept there; raises as `picture` and `RowStore`.
        """
        return self.derived(cut.spec, lambda rows: self.cut(cut, rows))

    def derived(self, spec: RowSpec, compute: Compute) -> Rows:
        """Rows of every image, kept by content hash.

        Args:
            spec: name, shape and type of a row, and all that it depends on.
            compute: gives the rows at some positions of this table, in order; called with a
                shard's worth at most, for images that have no row yet.
        """
        store = self.store(spec)
        missing = len(store.missing(self.hashes))
        if missing:
            with track(spec.name, missing, "images") as advance:
                store.fill(self.hashes, compute, advance)
        return Rows(store, self.hashes)

    def spec(self, spec: RowSpec) -> RowSpec:
        """The spec under the name, and with the settings, of the track."""
        if self.canonical is None:
            return spec
        name = f"{spec.name}-canonical{self.canonical}"
        return replace(spec, name=name, depends={**spec.depends, "canonical": self.canonical})

    def store(self, spec: RowSpec) -> RowStore:
        """The store of a spec, which the canonical track keeps apart; raises as `RowStore`."""
        own = self.spec(spec)
        return RowStore(self.kept / own.name, own)


def kept_folder(cache: Path) -> Path:
    """Where the folder of a cache's splits keeps rows derived from their images."""
    return cache / "rows"
