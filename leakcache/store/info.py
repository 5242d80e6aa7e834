"""A cache in words and figures, for `leak cache info`."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from leakcache.columns.spec import in_words
from leakcache.columns.table import COLUMNS
from leakcache.files import replace_file
from leakcache.progress import track
from leakcache.store.cache import DERIVED, Cache
from leakcache.store.column_store import ColumnStore
from leakcache.store.manifest import FILE

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
