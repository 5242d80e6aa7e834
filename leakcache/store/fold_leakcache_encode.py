"""Latents of one shard of images: loaded ahead on threads, encoded in batches."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

import numpy as np
import torch
from jaxtyping import UInt8

from leakcache.encoder.autoencoder import Encoder
from leakcache.images.loader import LoadedImage
from leakcache.progress import Advance
from leakcache.store.fold_leakcache_reuse import ReusableLatents
from leakcache.store.workspace import DoneShard
from leakcache.store.zarr_shards import Latents

BATCH = 8
"""Views of 256 × 256 pixels that go through the encoder at once."""
MEASURED = 1
"""Views on which a build measures the error of reduced precision: full precision is slow."""


def batch_views(latent_shape: tuple[int, ...]) -> int:
    """Views in a batch: fewer of large ones, so that memory does not grow with their size."""
    height, width = latent_shape[-2:]
    return max(1, min(BATCH, BATCH * 32 * 32 // (height * width)))


class ShardEncoder:
    """Turns shards of paths into latents and counts what it took.

    Attributes:
        encoded: images that went through the encoder.
        reused: images whose latents were found by their content hash.
        relative_error: root mean square error of reduced precision over that of the
            latents, on the first view; None at full precision.
    """

    def __init__(
        self,
        encoder: Encoder,
        latent_shape: tuple[int, int, int, int],
        stored: str,
        reusable: ReusableLatents,
    ) -> None:
        self.encoded = self.reused = 0
        self.relative_error: float | None = None
        self._encoder = encoder
        self._shape = latent_shape
        self._batch = batch_views(latent_shape)
        self._stored = stored
        self._reusable = reusable

    def encode(
        self, images: Iterable[LoadedImage], count: int, advance: Advance
    ) -> tuple[Latents, DoneShard]:
        """Latents of `count` images, zero where one is refused, and what was found of each."""
        latents: Latents = np.zeros((count, *self._shape), self._stored)
        found: list[LoadedImage] = []
        waiting: dict[int, UInt8[np.ndarray, "view height width 3"]] = {}
        for row, image in enumerate(images):
            if image.pixels is not None:
                waiting[row] = image.pixels
            elif not image.reason:
                latents[row] = self._reusable.get(image.sha256)
                self.reused += 1
            # Pixels are let go once they are encoded, so memory does not grow with the shard.
            found.append(replace(image, pixels=None))
            if (len(waiting) + 1) * self._shape[0] > self._batch:
                self._flush(waiting, latents)
            advance(1)
        self._flush(waiting, latents)
        return latents, _done(found, latents)

    def _flush(self, waiting: dict[int, np.ndarray], latents: Latents) -> None:
        if not waiting:
            return
        rows = list(waiting)
        views = torch.from_numpy(np.concatenate([waiting[row] for row in rows]))
        parts = [self._encoder.encode_bytes(part).cpu() for part in torch.split(views, self._batch)]
        if self.relative_error is None and self._encoder.precision != "fp32":
            self.relative_error = self._encoder.relative_error(views[:MEASURED])
        latents[rows] = torch.cat(parts).numpy().reshape(len(rows), *self._shape)
        self.encoded += len(rows)
        waiting.clear()


def _done(images: list[LoadedImage], latents: Latents) -> DoneShard:
    finite = np.isfinite(latents).all(axis=(1, 2, 3, 4))
    reasons = [
        image.reason or ("" if ok else "the encoder gave latents that are not finite")
        for image, ok in zip(images, finite, strict=True)
    ]
    # What is refused is stored as zeros, so that an array never holds a NaN.
    latents[~finite] = 0
    return DoneShard(
        tuple(image.sha256 for image in images),
        tuple(image.size for image in images),
        tuple(reasons),
    )
