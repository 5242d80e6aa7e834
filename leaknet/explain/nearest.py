"""The training images nearest to something, with thumbnails."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float

from leakcache.errors import CacheError, ImageError
from leakcache.images.archive import read_image
from leakcache.images.decode import decode
from leakcache.store.manifest import CacheManifest
from leaknet.data.embeddings import Embeddings
from leaknet.model.protoleaknet import ProtoLeakNet
from leaknet.report.raster import thumbnail

NEIGHBOURS = 6


@dataclass(frozen=True)
class Neighbour:
    """A training image.

    Attributes:
        path: below the data root.
        label: its generator.
        sha256: of its file.
        distance: to what it is near.
        image: a thumbnail, PNG; empty where the file is not there or has changed.
    """

    path: str
    label: str
    sha256: str
    distance: float
    image: bytes


def nearest_images(
    root: Path | None, train: Embeddings, distances: Float[np.ndarray, " train"]
) -> tuple[Neighbour, ...]:
    """The training images of the smallest distances, the nearest first."""
    found = []
    for row in np.argsort(distances, kind="stable")[:NEIGHBOURS].tolist():
        path, sha256 = str(train.paths[row]), str(train.hashes[row])
        image = _thumbnail(root, path, sha256)
        found.append(Neighbour(path, str(train.labels[row]), sha256, float(distances[row]), image))
    return tuple(found)


def data_root(model: ProtoLeakNet) -> Path | None:
    """Where the images of the run's cache lay; None where the cache is gone."""
    if model.cache is None:
        return None
    try:
        return Path(CacheManifest.read(Path(model.cache.folder)).data)
    except CacheError:
        return None


def _thumbnail(root: Path | None, path: str, sha256: str) -> bytes:
    if root is None:
        return b""
    try:
        data = read_image(root / path)
        if hashlib.sha256(data).hexdigest() != sha256:
            return b""
        return thumbnail(decode(data, least=128))
    except (OSError, ImageError):
        return b""
