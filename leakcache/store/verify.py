"""Is a cache what it says? Checksums of every shard, counts, and a few images encoded again."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from leakcache.encoder.autoencoder import Encoder
from leakcache.errors import CacheCorrupt, CacheStale
from leakcache.images.loader import load_image
from leakcache.progress import track
from leakcache.store.cache import Cache

TOLERANCE = 0.02
"""Largest accepted RMS difference of a re-encoded latent, over the RMS of the latent:
above rounding to half precision and batch order, far below any change of weights or pixels."""


@dataclass(frozen=True)
class Verification:
    """What was found.

    Attributes:
        shards: number of shards read through their checksums.
        damaged: one line for each shard that failed, and for moments that do.
        reencoded: number of images encoded again.
        worst: largest relative difference among them.
        differing: one line for each image whose latent or content is another now.
    """

    shards: int
    damaged: tuple[str, ...]
    reencoded: int
    worst: float
    differing: tuple[str, ...]

    @property
    def ok(self) -> bool:
        """Whether nothing was found."""
        return not (self.damaged or self.differing)


def verify(cache: Cache, encoder: Encoder | None, spot: int, seed: int = 0) -> Verification:
    """Check a cache.

    Args:
        cache: the cache.
        encoder: of the same weights; None skips the spot check.
        spot: how many randomly drawn images to encode again.
        seed: of that draw.

    Raises:
        CacheStale: the encoder is not the cache's.
    """
    damaged = []
    with track("checking", cache.shards, "shards") as advance:
        for shard in range(cache.shards):
            try:
                cache.check_shard(shard)
            except CacheCorrupt as error:
                damaged.append(str(error))
            advance(1)
    damaged += _wrong_counts(cache)
    if encoder is None or damaged:
        return Verification(cache.shards, tuple(damaged), 0, 0.0, ())
    _refuse_other(cache, encoder)
    rows = np.random.default_rng(seed).permutation(len(cache))[:spot]
    differences: dict[str, float] = {}
    with track("encoding again", len(rows), "images") as advance:
        for row in rows:
            differences[str(cache.paths[row])] = _difference(cache, encoder, int(row))
            advance(1)
    differing = tuple(_words(p, d) for p, d in differences.items() if not d <= TOLERANCE)
    finite = [d for d in differences.values() if np.isfinite(d)]
    return Verification(cache.shards, (), len(rows), max(finite, default=0.0), differing)


def _wrong_counts(cache: Cache) -> list[str]:
    try:
        samples = sum(cache.moments(fold).dct.count for fold in set(cache.folds.tolist()))
    except CacheCorrupt as error:
        return [str(error)]
    counted = samples // cache.manifest.latent_shape[0]
    if counted == len(cache):
        return []
    return [
        f"{cache.path}: the moments count {counted} images, the table {len(cache)}; "
        "`leak cache build --repair` takes them again"
    ]


def _refuse_other(cache: Cache, encoder: Encoder) -> None:
    mine, theirs = cache.manifest.encoding.autoencoder, encoder.identity
    if mine.weights_sha256 != theirs.weights_sha256:
        raise CacheStale(
            f"{cache.path}: was encoded by {mine.name} ({mine.weights_sha256[:8]}), "
            f"--vae gives {theirs.name} ({theirs.weights_sha256[:8]}); "
            "name the one it was built with"
        )


def _difference(cache: Cache, encoder: Encoder, row: int) -> float:
    """Relative RMS difference; infinite where the image is gone, NaN where it is another."""
    path = Path(cache.manifest.data) / str(cache.paths[row])
    image = load_image(path, cache.manifest.encoding.preprocessing, known=())
    if image.pixels is None:
        return float("inf")
    if image.sha256 != cache.hashes[row]:
        return float("nan")
    again = encoder.encode_bytes(torch.from_numpy(image.pixels)).cpu().numpy()
    stored = cache.column("z0", np.array([row]))[0].astype(np.float64)
    return float(np.sqrt(np.mean((again - stored) ** 2) / np.mean(stored**2)))


def _words(path: str, difference: float) -> str:
    if np.isnan(difference):
        return f"{path}: its content has changed since"
    if np.isinf(difference):
        return f"{path}: cannot be read any more"
    return f"{path}: encodes differently now (relative RMS {difference:.3f})"
