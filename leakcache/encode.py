"""Latents of one shard of images: loaded ahead on threads, encoded in batches."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np
import torch
from jaxtyping import UInt8

from leakcache.autoencoder import Encoder
from leakcache.images import Preprocessing, to_unit_range
from leakcache.loader import LoadedImage, in_order, load_image
from leakcache.progress import Advance
from leakcache.reuse import ReusableLatents
from leakcache.store import Latents
from leakcache.workspace import DoneShard

BATCH = 8
"""Views that go through the encoder at once, and images that wait to be encoded."""


class ShardEncoder:
    """Turns shards of paths into latents and counts what it took.

    Attributes:
        encoded: images that went through the encoder.
        reused: images whose latents were found by their content hash.
        relative_error: root mean square error of reduced precision over that of the
            latents, on the first batch; None at full precision.
    """

    def __init__(
        self,
        encoder: Encoder,
        preprocessing: Preprocessing,
        latent_shape: tuple[int, int, int, int],
        stored: str,
        reusable: ReusableLatents,
    ) -> None:
        self.encoded = self.reused = 0
        self.relative_error: float | None = None
        self._encoder = encoder
        self._preprocessing = preprocessing
        self._shape = latent_shape
        self._stored = stored
        self._reusable = reusable

    def encode(self, paths: list[Path], advance: Advance) -> tuple[Latents, DoneShard]:
        """Latents of these images, zero where one is refused, and what was found of each."""
        latents: Latents = np.zeros((len(paths), *self._shape), self._stored)
        load = partial(load_image, preprocessing=self._preprocessing, known=self._reusable)
        images: list[LoadedImage] = []
        waiting: dict[int, UInt8[np.ndarray, "view height width 3"]] = {}
        for row, image in enumerate(in_order(load, paths)):
            images.append(image)
            if image.pixels is not None:
                waiting[row] = image.pixels
            elif not image.reason:
                latents[row] = self._reusable.get(image.sha256)
                self.reused += 1
            if len(waiting) == BATCH:
                self._flush(waiting, latents)
            advance(1)
        self._flush(waiting, latents)
        return latents, _done(images, latents)

    def _flush(self, waiting: dict[int, np.ndarray], latents: Latents) -> None:
        if not waiting:
            return
        rows = list(waiting)
        views = np.concatenate([to_unit_range(waiting[row]) for row in rows])
        pixels = torch.from_numpy(views)
        encoded = torch.cat(
            [self._encoder.encode(part).cpu() for part in torch.split(pixels, BATCH)]
        )
        if self.encoded == 0 and self._encoder.precision != "fp32":
            self.relative_error = self._encoder.relative_error(pixels[:BATCH])
        latents[rows] = encoded.numpy().reshape(len(rows), *self._shape)
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
