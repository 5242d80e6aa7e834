"""Interface of a compared method, and the images that it is given.

    baseline = Method(classes, options)  # raises WeightsError if weights are missing
    baseline.fit(train, val)             # closed folds; all choices are made on `val`
    baseline.embed(images)               # closed, open or degraded images

Rules for an implementation (CONTRIBUTING.md has the recipe):

- Read pixels with `images.pixels(cut)`: they are decoded once and stored. Results of a frozen
  network go through `images.derived(...)` or `images.extract(...)`: stored by content hash. The
  spec contains all that they depend on. Noise depends on seed and content hash only.
- `options.seed` determines every random draw, without the global generator. Folds can be tiny:
  a batch of one image or a class without validation images must not fail.
- An embedding depends on its image alone, not on the batch or on other images.
- Weights are safetensors only. Missing ones raise WeightsError in the constructor, with the cure.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch
from jaxtyping import Bool, Float, Int, Shaped, UInt8
from torch import Tensor

from leakcache.errors import RunError
from leakcache.store.cache import Cache
from leakcache.store.column_store import Compute
from leakcache.store.columns import Cut
from leakcache.store.source_images import Rows, SourceImages
from leakcache.store.zarr_column import ColumnSpec
from leaknet.data.columns import ImageColumns, load_columns
from leaknet.data.embeddings import Embeddings

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


CPU = torch.device("cpu")


@dataclass(frozen=True)
class BaselineOptions:
    """Options of `leak bench`, equal for all methods.

    Attributes:
        weights: folder of local weights; None for the hub.
        epochs: passes over the training fold; None for the method's own number.
        seed: of all random draws.
        device: where to compute.
        precision: of trained networks, "fp32" or "bf16" under autocast.
        folder: of this method and seed, for checkpoints; None for no checkpoints.
    """

    weights: Path | None = None
    epochs: int | None = None
    seed: int = 0
    device: torch.device = CPU
    precision: str = "fp32"
    folder: Path | None = None


class Baseline(ABC):
    """One compared method.

    Attributes:
        name: of its row and in `--methods`; lower case and dashes.
        classes: the known generators, in the order of the logits.
        options: of `leak bench`.
        fitted: tensors that `fit` sets, by name; None for a method without a state.
    """

    name: ClassVar[str]
    fitted: dict[str, Tensor] | None = None

    def __init__(self, classes: tuple[str, ...], options: BaselineOptions) -> None:
        """Raises WeightsError if weights are missing."""
        self.classes = classes
        self.options = options

    @abstractmethod
    def fit(self, train: BaselineImages, val: BaselineImages) -> Baseline:
        """Fit on the training fold; settings and epoch are chosen on `val`.

        Raises:
            TrainingError: the loss is not finite, or the folds have too few classes or images.
        """

    @abstractmethod
    def embed(self, images: BaselineImages) -> Embeddings:
        """One row per image, in the given order.

        `vectors` (n, D) are the classifier's input, for the open-set detectors; `logits` (n, K)
        are class scores in the order of `classes`, higher for the likelier class.
        """

    @property
    @abstractmethod
    def parameters(self) -> int:
        """Number of weights used in embedding an image, frozen ones included."""

    def state(self) -> Mapping[str, Tensor] | None:
        """Fitted tensors by name, for reuse on other images; None if `fit` must run again."""
        return self.fitted

    def restore(self, state: Mapping[str, Tensor]) -> Baseline:
        """Load a state instead of fitting."""
        self.fitted = dict(state)
        return self

    def embeddings(
        self,
        images: BaselineImages,
        vectors: Float[np.ndarray, "n dimension"],
        logits: Float[np.ndarray, "n class"],
    ) -> Embeddings:
        """The result of `embed`; raises ScoringError if a number is not finite."""
        return Embeddings(
            vectors=vectors,
            logits=logits,
            attention=np.ones((len(images), 1)),
            labels=images.labels,
            groups=images.groups,
            folds=images.folds,
            hashes=images.hashes,
            paths=images.paths,
            classes=self.classes,
            run=self.name,
            seed=self.options.seed,
        )
