"""One pass over the files: everything that the controls look at, read once, on threads."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Float32, Int, Shaped, UInt8, UInt64
from PIL import Image

from leakcache.dataset.index import DatasetIndex, ImageRecord, Reject
from leakcache.errors import ImageError
from leakcache.images.canonical import canonical_bytes
from leakcache.images.decode import decode
from leakcache.images.loader import in_order
from leakcache.progress import track
from leaknet.audit.duplicates import perceptual_hash
from leaknet.audit.file_facts import FileFacts, read_facts

# What colour and layout alone say: the mean colours of an 8×8 grid over the picture.

SIDE = 8


def thumbnail(image: Image.Image) -> UInt8[np.ndarray, "8 8 3"]:
    """Mean colour of each cell of an 8×8 grid over the whole RGB image, whatever its aspect."""
    return np.asarray(image.resize((SIDE, SIDE), Image.Resampling.BOX))


def thumbnail_features(
    thumbnails: UInt8[np.ndarray, "image 8 8 3"],
) -> Float32[np.ndarray, "image 192"]:
    """One row an image, 0 to 1."""
    features: Float32[np.ndarray, "image 192"] = thumbnails.reshape(
        len(thumbnails), -1
    ) / np.float32(255)
    return features


_LEAST = 64
"""Sides down to which a JPEG may be reduced while it is decoded; the perceptual hash needs 32."""


@dataclass(frozen=True)
class Observation:
    """What one file shows: hash and native size as it lies on disk, all else as it is judged."""

    sha256: str
    native: tuple[int, int]
    facts: FileFacts
    thumbnail: UInt8[np.ndarray, "8 8 3"]
    phash: int


@dataclass(frozen=True)
class Observations:
    """What the readable files of a data set and its open sets show, a row an image.

    Attributes:
        native: width and height on disk.
        facts: headers, of the canonical form on the canonical track.
        thumbnails: mean colours.
        phashes: perceptual hashes.
        hashes: sha256 of the files on disk.
        labels, groups, folds: as indexed; fold `open` marks unknown generators.
        paths: as shown to the reader: relative to the data root, or below the name of an open
            root given beside it.
        unreadable: what could not be judged, and why.
    """

    native: Int[np.ndarray, "image 2"]
    facts: tuple[FileFacts, ...]
    thumbnails: UInt8[np.ndarray, "image 8 8 3"]
    phashes: UInt64[np.ndarray, "image"]
    hashes: Shaped[np.ndarray, "image"]
    labels: Shaped[np.ndarray, "image"]
    groups: Shaped[np.ndarray, "image"]
    folds: Shaped[np.ndarray, "image"]
    paths: Shaped[np.ndarray, "image"]
    unreadable: tuple[Reject, ...]

    def __len__(self) -> int:
        return len(self.facts)

    @property
    def unknown(self) -> Bool[np.ndarray, "image"]:
        """Which images are of the open set."""
        unknown: Bool[np.ndarray, "image"] = self.folds == "open"
        return unknown

    def take(self, chosen: Bool[np.ndarray, "image"]) -> Observations:
        """The chosen rows."""
        rows = np.flatnonzero(chosen)
        columns = (
            "native",
            "thumbnails",
            "phashes",
            "hashes",
            "labels",
            "groups",
            "folds",
            "paths",
        )
        parts = {name: getattr(self, name)[rows] for name in columns}
        return replace(self, facts=tuple(self.facts[row] for row in rows), **parts)


def observe_data(
    index: DatasetIndex, open_indices: Sequence[DatasetIndex] = (), side: int | None = None
) -> Observations:
    """Read every image of the index, and every open image of the open indices, once.

    With `side`, what is judged is each image's canonical form of that side.
    """
    records = [*index.records]
    places = [index.root / record.path for record in records]
    for extra in open_indices:
        chosen = extra.select("open").records
        records += [replace(r, path=f"{extra.root.name}/{r.path}") for r in chosen]
        places += [extra.root / record.path for record in chosen]
    found: list[tuple[ImageRecord, Observation]] = []
    unreadable: list[Reject] = []
    with track("reading", len(places), "images") as advance:
        look = partial(_try_to_observe, side=side)
        for record, seen in zip(records, in_order(look, places), strict=True):
            if isinstance(seen, Observation):
                found.append((record, seen))
            else:
                unreadable.append(Reject(record.path, seen))
            advance(1)
    return _table(found, unreadable)


def observe(data: bytes, side: int | None = None) -> Observation:
    """Look at one file; raises ImageError where it cannot be decoded."""
    sha256 = hashlib.sha256(data).hexdigest()
    if side is not None:
        whole = decode(data)
        native = whole.size
        data = canonical_bytes(whole, side)
    facts, image = read_facts(data), decode(data, least=_LEAST)
    if side is None:
        native = (facts.width, facts.height)
    return Observation(sha256, native, facts, thumbnail(image), perceptual_hash(image))


def _try_to_observe(path: Path, side: int | None) -> Observation | str:
    """What the file shows, or the reason why it cannot be seen."""
    try:
        return observe(path.read_bytes(), side)
    except OSError as error:
        return f"cannot be read ({error.strerror})"
    except ImageError as error:
        return str(error)


def _table(
    found: Sequence[tuple[ImageRecord, Observation]], unreadable: Sequence[Reject]
) -> Observations:
    records = [record for record, _ in found]
    seen = [observation for _, observation in found]
    return Observations(
        native=np.array([o.native for o in seen], np.int64).reshape(-1, 2),
        facts=tuple(o.facts for o in seen),
        thumbnails=np.array([o.thumbnail for o in seen], np.uint8).reshape(-1, 8, 8, 3),
        phashes=np.array([o.phash for o in seen], np.uint64),
        hashes=np.array([o.sha256 for o in seen], str),
        labels=np.array([r.label for r in records], str),
        groups=np.array([r.group for r in records], str),
        folds=np.array([r.fold for r in records], str),
        paths=np.array([r.path for r in records], str),
        unreadable=tuple(unreadable),
    )
