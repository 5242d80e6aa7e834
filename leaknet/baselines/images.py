"""Images of the compared methods: index columns, files, stored pixels and features, latents."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Bool, Int, Shaped, UInt8

from leakcache.columns.pixels import Cut
from leakcache.columns.spec import ColumnSpec
from leakcache.errors import RunError
from leakcache.store.cache import Cache
from leakcache.store.column_store import Compute, Rows
from leakcache.store.source_images import SourceImages
from leaknet.data.columns import ImageColumns, load_columns

COLUMNS = ("labels", "groups", "folds", "hashes", "paths")

Extract = Callable[
    [UInt8[np.ndarray, "k side side 3"], Int[np.ndarray, "k"]], Shaped[np.ndarray, "k *row"]
]
"""From uint8 views and the positions of their images to one row per image."""


@dataclass(frozen=True)
class BaselineImages:
    """A selection of a cache's images, or of degraded copies of them.

    Attributes:
        labels: generator of each image.
        groups: prompt group of each image.
        folds: "train", "val", "test" or "open".
        hashes: SHA-256 of each file, in hexadecimal.
        paths: relative to the data root, for tables.
        originals: the files and the store of derived rows; on the canonical track they return
            the canonical form.
        latent: z0 and the same columns; None without cached latents.
    """

    labels: Shaped[np.ndarray, "image"]
    groups: Shaped[np.ndarray, "image"]
    folds: Shaped[np.ndarray, "image"]
    hashes: Shaped[np.ndarray, "image"]
    paths: Shaped[np.ndarray, "image"]
    originals: SourceImages
    latent: ImageColumns | None = None

    @classmethod
    def of(cls, cache: Cache, rows: Int[np.ndarray, "k"]) -> BaselineImages:
        """Rows of a cache, in the given order.

        Raises:
            CacheCorrupt: the latents' bytes do not match their checksum.
        """
        columns = {name: getattr(cache, name)[rows] for name in COLUMNS}
        return cls(
            **columns,
            originals=SourceImages.of(cache, rows),
            latent=load_columns(cache, rows),
        )

    def __len__(self) -> int:
        return len(self.originals)

    def take(self, rows: Bool[np.ndarray, "image"] | Int[np.ndarray, "k"]) -> BaselineImages:
        """Images by mask or by position, in the given order."""
        rows = np.arange(len(self))[rows]
        columns = {name: getattr(self, name)[rows] for name in COLUMNS}
        latent = self.latent and self.latent.take(rows)
        return replace(self, originals=self.originals.take(rows), latent=latent, **columns)

    def targets(self, classes: tuple[str, ...]) -> Int[np.ndarray, "image"]:
        """Class number of each image; -1 for a generator not among `classes`."""
        number = {name: index for index, name in enumerate(classes)}
        return np.array([number.get(label, -1) for label in self.labels.tolist()], np.int64)

    @property
    def latents(self) -> ImageColumns:
        """Clean latents of the cache's autoencoder.

        Raises:
            RunError: these images have no cached latents.
        """
        if self.latent is None:
            raise RunError("these images have no cached latents: build their cache first")
        return self.latent

    def data(self, row: int) -> bytes:
        """Bytes of one file; raises as `SourceImages.data`."""
        return self.originals.data(row)

    def pixels(self, cut: Cut) -> Rows:
        """uint8 pixels (image, view, side, side, 3) by position, decoded once and stored."""
        return self.originals.pixels(cut)

    def derived(self, spec: ColumnSpec, compute: Compute) -> Rows:
        """Rows that are computed once per image and stored by content hash, by position.

        `compute` is called as in `SourceImages.derived`, with positions in this table.
        """
        return self.originals.derived(spec, compute)

    def extract(self, spec: ColumnSpec, cut: Cut, function: Extract, batch: int = 16) -> Rows:
        """`derived` rows of batches of each image's first view."""
        pixels = self.pixels(cut)

        def compute(rows: Int[np.ndarray, "k"]) -> Shaped[np.ndarray, "k *row"]:
            parts = [rows[start : start + batch] for start in range(0, len(rows), batch)]
            return np.concatenate([function(pixels[part][:, 0], part) for part in parts])

        return self.derived(spec, compute)


class ConcatenatedRows(Rows):
    """Rows of several stores for the same images, concatenated along the last axis."""

    def __init__(self, parts: Sequence[Rows]) -> None:
        self._parts = list(parts)
        first = self._parts[0].shape
        self.shape = (*first[:-1], sum(part.shape[-1] for part in self._parts))

    def __len__(self) -> int:
        return len(self._parts[0])

    def __getitem__(self, rows: slice | Int[np.ndarray, "k"]) -> Shaped[np.ndarray, "k *row"]:
        """Rows at these positions, in the given order."""
        return np.concatenate([part[rows] for part in self._parts], axis=-1)
