"""A cache in words and figures, for `leak cache info`."""

from __future__ import annotations

from collections import Counter
from typing import Any

from leakcache.store.cache import LatentCache


def describe(cache: LatentCache) -> dict[str, Any]:
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
