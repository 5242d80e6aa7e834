"""Check stored columns: checksums of every shard, and a few images computed again."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from leakcache.columns.column import DecodedImage
from leakcache.columns.compute import ColumnComputer
from leakcache.columns.table import COLUMNS
from leakcache.encoder.autoencoder import Encoder
from leakcache.errors import CacheStale
from leakcache.images.archive import read_image
from leakcache.images.decode import decode
from leakcache.progress import track
from leakcache.store.cache import Cache
from leakcache.store.column_store import ColumnStore

TOLERANCE = 0.02
"""Largest accepted RMS difference of values that are computed again, over their own RMS: above
rounding to 8 bits and batch order, far below any change of weights or pixels."""


@dataclass(frozen=True)
class Verification:
    """What was found in a cache folder.

    Attributes:
        shards: number of shards read through their checksums.
        damaged: one line for each shard that failed.
        recomputed: number of images whose columns were computed again.
        worst: largest relative difference among them.
        differing: one line for each image whose values or content differ now.
    """

    shards: int
    damaged: tuple[str, ...]
    recomputed: int
    worst: float
    differing: tuple[str, ...]

    @property
    def ok(self) -> bool:
        """Whether nothing was found."""
        return not (self.damaged or self.differing)


def verify(
    caches: Sequence[Cache], encoder: Encoder | None, spot: int, seed: int = 0
) -> Verification:
    """Check the columns in a cache folder.

    Args:
        caches: the splits in it, at least one.
        encoder: of the same weights; None skips the spot check.
        spot: how many randomly drawn images of each split to compute again.
        seed: of that draw.

    Raises:
        CacheStale: the encoder is not the cache's.
    """
    store = ColumnStore(caches[0].path.parent)
    shards = len(store.shards())
    damaged = tuple(store.damaged().values())
    if encoder is None or damaged:
        return Verification(shards, damaged, 0, 0.0, ())
    worst, differing, count = 0.0, list[str](), 0
    for cache in caches:
        _refuse_other(cache, encoder)
        rows = np.random.default_rng(seed).permutation(len(cache))[:spot].tolist()
        with track("computing again", len(rows), "images") as advance:
            for row in rows:
                difference, words = _difference(cache, encoder, row)
                worst, count = max(worst, difference), count + 1
                differing += words
                advance(1)
    return Verification(shards, (), count, worst, tuple(differing))


def _difference(cache: Cache, encoder: Encoder, row: int) -> tuple[float, list[str]]:
    """Largest relative RMS difference of an image's columns; one line for each that differs."""
    path, sha256 = Path(cache.manifest.data) / str(cache.paths[row]), str(cache.hashes[row])
    try:
        data = read_image(path)
    except OSError:
        return 0.0, [f"{path}: cannot be read any more"]
    if hashlib.sha256(data).hexdigest() != sha256:
        return 0.0, [f"{path}: its content has changed since"]
    encoding, place = cache.manifest.encoding, np.array([row])
    columns = [c for name, c in COLUMNS.items() if not cache.lacking(name, place)]
    image = DecodedImage.of(decode(data), sha256, encoding.preprocessing)
    computer = ColumnComputer(columns, encoding, encoder)
    values = computer([{column.name: column.views(image) for column in columns}])[0]
    if isinstance(values, str):
        return 0.0, [f"{path}: {values}"]
    found = {
        name: _relative(COLUMNS[name].read(again), cache.column(name, place)[0])
        for name, again in values.items()
    }
    words = [
        f"{path}: its {name} differs now (relative RMS {difference:.3f})"
        for name, difference in found.items()
        if not difference <= TOLERANCE
    ]
    return max(found.values(), default=0.0), words


def _relative(again: np.ndarray, stored: np.ndarray) -> float:
    exact = stored.astype(np.float64)
    scale = max(float(np.mean(exact**2)), 1e-12)
    return float(np.sqrt(np.mean((again - exact) ** 2) / scale))


def _refuse_other(cache: Cache, encoder: Encoder) -> None:
    mine, theirs = cache.manifest.encoding.autoencoder, encoder.identity
    if not mine.same_as(theirs):
        raise CacheStale(
            f"{cache.path}: was encoded by {mine.name} ({mine.weights_sha256[:8]}), "
            f"--vae gives {theirs.name} ({theirs.weights_sha256[:8]}); "
            "name the one it was built with"
        )
