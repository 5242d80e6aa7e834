"""A cache in words and figures, for `leak cache info`."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from leakcache.progress import track
from leakcache.store.cache import Cache
from leakcache.store.manifest import FILE
from leakcache.store.zarr_shards import SHARD


def describe(cache: Cache) -> dict[str, Any]:
    """What a cache is, how big, and what was left out.

    Returns:
        Plain values under stable keys, in the order in which a person asks for them.
    """
    manifest = cache.manifest
    encoding = manifest.encoding
    autoencoder, cut = encoding.autoencoder, encoding.preprocessing
    files = [path for path in cache.path.rglob("*") if path.is_file()]
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
        "bytes": sum(path.stat().st_size for path in files),
        "files": len(files),
        "fingerprint": manifest.fingerprint,
        "data": manifest.data,
        "layout": manifest.layout,
        "build": manifest.facts,
        "rejects": [{"path": path, "reason": reason} for path, reason in manifest.rejects],
    }


# A cache as one HDF5 file, for tools that do not read zarr.


def export_h5(cache: Cache, target: Path) -> Path:
    """Write `z0`, `dct_low`, the table of images and the manifest to one HDF5 file.

    The file appears whole or not at all.

    Args:
        cache: a finished cache.
        target: file to write; replaced if it is there.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = target.with_name(target.name + ".partial")
    with h5py.File(partial, "w") as file:
        file.attrs["manifest"] = (cache.path / FILE).read_text(encoding="utf-8")
        file.attrs["classes"] = list(cache.classes)
        for name in ("paths", "labels", "groups", "folds", "hashes"):
            file.create_dataset(
                name, data=getattr(cache, name).astype(object), dtype=h5py.string_dtype()
            )
        file.create_dataset("bytes", data=cache.sizes)
        _write_latents(cache, file)
    partial.replace(target)
    return target


def _write_latents(cache: Cache, file: h5py.File) -> None:
    with track("exporting", len(cache), "images") as advance:
        for start in range(0, len(cache), SHARD):
            rows = np.arange(start, min(start + SHARD, len(cache)))
            for name, values in (
                ("z0", cache.column("z0", rows)),
                ("dct_low", cache.column("dct_low", rows)),
            ):
                if name not in file:
                    shape = (len(cache), *values.shape[1:])
                    chunks = (min(16, len(cache)), *values.shape[1:])
                    file.create_dataset(name, shape, values.dtype, chunks=chunks, fletcher32=True)
                file[name][start : start + len(rows)] = values
            advance(len(rows))
