"""Images as the compared methods see them: columns, files, cached pixels, derived rows, latents."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Bool, Int, Shaped
from PIL import Image

from leakcache.errors import RunError
from leakcache.store.array_store import Compute, Rows, RowSpec
from leakcache.store.cache import Cache
from leakcache.store.source_images import SourceImages
from leakcache.store.views import Cut
from leaknet.data.split import SplitLatents, kept_statistics

CPU = torch.device("cpu")
COLUMNS = ("labels", "groups", "folds", "hashes", "paths")


@dataclass(frozen=True)
class BaselineImages:
    """Some images of a cache, or of a degraded copy of its data.

    Attributes:
        labels: generator of each image.
        groups: prompt group of each image.
        folds: "train", "val", "test" or "open".
        hashes: SHA-256 of each file, in hexadecimal.
        paths: relative to the data root, for tables.
        originals: the files, and where what is derived from them is kept. On the canonical
            track they give the canonical form, so no method has to know of it.
        latent: z0 and the same columns; None where no latents were cached for these images.
    """

    labels: Shaped[np.ndarray, "image"]
    groups: Shaped[np.ndarray, "image"]
    folds: Shaped[np.ndarray, "image"]
    hashes: Shaped[np.ndarray, "image"]
    paths: Shaped[np.ndarray, "image"]
    originals: SourceImages
    latent: SplitLatents | None = None

    @classmethod
    def of(cls, cache: Cache, rows: Int[np.ndarray, "k"]) -> BaselineImages:
        """Some rows of a finished cache, in that order.

        Raises:
            CacheCorrupt: the latents' bytes do not match their checksum.
        """
        columns = {name: getattr(cache, name)[rows] for name in COLUMNS}
        z0 = torch.from_numpy(cache.column("z0", rows))
        return cls(
            **columns,
            originals=SourceImages.of(cache, rows),
            latent=SplitLatents(z0, **columns, **kept_statistics(cache, rows, CPU)),
        )

    def __len__(self) -> int:
        return len(self.originals)

    def take(self, rows: Bool[np.ndarray, "image"] | Int[np.ndarray, "k"]) -> BaselineImages:
        """The images given by a mask or by positions, in that order."""
        places = np.arange(len(self))[rows]
        columns = {name: getattr(self, name)[places] for name in COLUMNS}
        latent = self.latent and self.latent.take(places)
        return replace(self, originals=self.originals.take(places), latent=latent, **columns)

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
        """Bytes of one file; raises as `SourceImages.data`."""
        return self.originals.data(row)

    def picture(self, row: int) -> Image.Image:
        """One image as 8-bit RGB; raises as `SourceImages.picture`."""
        return self.originals.picture(row)

    def pixels(self, cut: Cut) -> Rows:
        """uint8 pixels of every image, (image, view, side, side, 3), to be indexed by position.

        What is not in the pixel cache yet is decoded once, on threads, and kept there.
        """
        return self.originals.pixels(cut)

    def derived(self, spec: RowSpec, compute: Compute) -> Rows:
        """What a method computes once for an image, kept by content hash; by position.

        `compute` is called as `SourceImages.derived` says, with positions in this table.
        """
        return self.originals.derived(spec, compute)


# Several stores of rows read as one: the same images, their values side by side.


class JoinedRows(Rows):
    """Rows of several stores joined along their last axis; each keeps its own memory."""

    def __init__(self, parts: Sequence[Rows]) -> None:
        """Join rows of the same images, of shapes that differ at most in the last axis."""
        self._parts = list(parts)
        first = self._parts[0].shape
        self.shape = (*first[:-1], sum(part.shape[-1] for part in self._parts))

    def __len__(self) -> int:
        return len(self._parts[0])

    def __getitem__(self, rows: slice | Int[np.ndarray, "k"]) -> Shaped[np.ndarray, "k *row"]:
        """Rows at these positions, in their order."""
        return np.concatenate([part[rows] for part in self._parts], axis=-1)
