"""Images as the compared methods see them: columns, files, cached pixels, derived rows, latents."""

from __future__ import annotations

import hashlib
import io
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Int, Shaped
from PIL import Image

from leakcache.canonical import canonical_bytes
from leakcache.errors import CacheStale, RunError
from leakcache.images import decode
from leakcache.loader import in_order
from leakcache.pixels import Cut
from leakcache.progress import track
from leakcache.rows import Compute, Rows, RowSpec, RowStore
from leaknet.latents import SplitLatents


@dataclass(frozen=True)
class PeerImages:
    """Some images of a cache, or of a degraded copy of its data.

    Attributes:
        labels: generator of each image.
        groups: prompt group of each image.
        folds: "train", "val", "test" or "open".
        hashes: SHA-256 of each file, in hexadecimal.
        paths: relative to the data root, for tables.
        files: where each file lies.
        kept: folder where pixels and derived rows are kept.
        canonical: side of the canonical form that every image is brought to first; None for
            images as they are. `data`, `picture` and `pixels` already obey it.
        latent: z0 and the same columns; None where no latents were cached for these images.
    """

    labels: Shaped[np.ndarray, "image"]
    groups: Shaped[np.ndarray, "image"]
    folds: Shaped[np.ndarray, "image"]
    hashes: Shaped[np.ndarray, "image"]
    paths: Shaped[np.ndarray, "image"]
    files: tuple[Path, ...]
    kept: Path
    canonical: int | None = None
    latent: SplitLatents | None = None

    def __len__(self) -> int:
        return len(self.files)

    def take(self, rows: Bool[np.ndarray, "image"] | Int[np.ndarray, "k"]) -> PeerImages:
        """The images given by a mask or by positions, in that order."""
        places = np.arange(len(self))[rows]
        names = ("labels", "groups", "folds", "hashes", "paths")
        columns = {name: getattr(self, name)[places] for name in names}
        latent = self.latent and replace(self.latent, z0=self.latent.z0[places], **columns)
        files = tuple(self.files[place] for place in places.tolist())
        return replace(self, files=files, latent=latent, **columns)

    def targets(self, classes: tuple[str, ...]) -> Int[np.ndarray, "image"]:
        """Class number of each image; -1 for a generator not among `classes`."""
        number = {name: index for index, name in enumerate(classes)}
        return np.array([number.get(label, -1) for label in self.labels.tolist()], np.int64)

    @property
    def latents(self) -> SplitLatents:
        """Clean latents of the cache's autoencoder.

        Raises:
            RunError: none were cached for these images.
        """
        if self.latent is None:
            raise RunError("these images have no cached latents: build their cache first")
        return self.latent

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

    def pixels(self, cut: Cut) -> Rows:
        """uint8 pixels of every image, (image, view, side, side, 3), to be indexed by position.

        What is not in the pixel cache yet is decoded once, on threads, and kept there.
        """

        def compute(rows: Int[np.ndarray, "k"]) -> Shaped[np.ndarray, "k view side side 3"]:
            return np.stack(list(in_order(lambda row: cut(self.picture(row)), rows.tolist(), 16)))

        return self.derived(cut.spec, compute)

    def derived(self, spec: RowSpec, compute: Compute) -> Rows:
        """What a method computes once for an image, kept by content hash; by position.

        Args:
            spec: name, shape and type of a row, and all that it depends on.
            compute: gives the rows of the images at some positions of this table, in order;
                called with a shard's worth at most, for images that have no row yet.
        """
        if self.canonical is not None:
            name = f"{spec.name}-canonical{self.canonical}"
            spec = replace(spec, name=name, depends={**spec.depends, "canonical": self.canonical})
        store = RowStore(self.kept / spec.name, spec)
        hashes = self.hashes.tolist()
        missing = len(store.missing(hashes))
        if missing:
            with track(spec.name, missing, "images") as advance:
                store.fill(hashes, compute, advance)
        return Rows(store, hashes)
