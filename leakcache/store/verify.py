"""Check stored columns; describe and export a cache."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from leakcache.encoder.autoencoder import Encoder
from leakcache.errors import CacheStale
from leakcache.files import replace_file
from leakcache.images.archive import read_image
from leakcache.images.decode import decode
from leakcache.progress import track
from leakcache.store.cache import DERIVED, Cache
from leakcache.store.column import ColumnComputer, DecodedImage
from leakcache.store.column_store import ColumnStore
from leakcache.store.columns import COLUMNS
from leakcache.store.manifest import FILE
from leakcache.store.zarr_column import in_words

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


AT_ONCE = 256
"""Images in memory while a column is exported."""


def describe(cache: Cache) -> dict[str, Any]:
    """What a cache is, how big, and what was left out.

    Returns:
        Plain values under stable keys, in the order in which a person asks for them.
    """
    manifest = cache.manifest
    encoding = manifest.encoding
    autoencoder, cut = encoding.autoencoder, encoding.preprocessing
    return {
        "images": manifest.images,
        "classes": list(manifest.classes),
        "unknown": list(manifest.unknown),
        "folds": dict(Counter(cache.folds.tolist())),
        "groups": len(set(cache.groups.tolist())),
        "autoencoder": f"{autoencoder.name} ({autoencoder.kind})",
        "weights_sha256": autoencoder.weights_sha256,
        "source": autoencoder.source,
        "preprocessing": f"{cut.name} {cut.size}, {cut.views} view(s)"
        + f", canonical {cut.canonical_size}" * cut.canonical,
        "precision": f"{encoding.precision}, stored as {encoding.stored}",
        "latent_shape": list(manifest.latent_shape),
        "decoder": in_words(manifest.decoder),
        "fingerprint": manifest.fingerprint,
        "data": manifest.data,
        "layout": manifest.layout,
        "build": manifest.facts,
        "rejects": [{"path": path, "reason": reason} for path, reason in manifest.rejects],
    }


def describe_columns(home: Path) -> dict[str, dict[str, Any]]:
    """The columns in a cache folder: number of images, shape, type, bytes and decoder by key."""
    store = ColumnStore(home)
    return {
        key: {
            "images": store.count(key),
            "shape": list(column.spec.shape),
            "dtype": column.spec.dtype,
            "bytes": column.bytes,
            "version": column.spec.version,
            "decoder": in_words(column.spec.decoder),
            "fingerprint": column.spec.fingerprint,
        }
        for key, column in store.columns.items()
    }


def export_h5(cache: Cache, target: Path) -> Path:
    """Write all columns that all images have, the table of images and the manifest to one file.

    The file appears whole or not at all.

    Args:
        cache: a finished cache.
        target: HDF5 file to write; replaced if it is there.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    replace_file(target, lambda partial: _write_h5(cache, partial))
    return target


def _write_h5(cache: Cache, target: Path) -> None:
    names = [name for name in (*COLUMNS, DERIVED) if cache.has(name, np.arange(len(cache)))]
    with h5py.File(target, "w") as file:
        file.attrs["manifest"] = (cache.path / FILE).read_text(encoding="utf-8")
        file.attrs["classes"] = list(cache.classes)
        for name in ("paths", "labels", "groups", "folds", "hashes"):
            text = getattr(cache, name).astype(object)
            file.create_dataset(name, data=text, dtype=h5py.string_dtype())
        file.create_dataset("bytes", data=cache.sizes)
        with track("exporting", len(cache) * len(names), "values") as advance:
            for name in names:
                for start in range(0, len(cache), AT_ONCE):
                    rows = np.arange(start, min(start + AT_ONCE, len(cache)))
                    _write_rows(file, name, rows, cache.column(name, rows), len(cache))
                    advance(len(rows))


def _write_rows(
    file: h5py.File, name: str, rows: np.ndarray, values: np.ndarray, images: int
) -> None:
    if name not in file:
        shape = (images, *values.shape[1:])
        chunks = (min(16, images), *values.shape[1:])
        file.create_dataset(name, shape, values.dtype, chunks=chunks, fletcher32=True)
    file[name][rows[0] : rows[-1] + 1] = values
