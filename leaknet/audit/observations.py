"""Reads every file once, on threads, and extracts what the controls and duplicate checks use."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import imagehash
import numpy as np
from jaxtyping import Bool, Float32, Int, Shaped, UInt8, UInt64
from PIL import Image
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from leakcache.dataset.index import DatasetIndex, ImageRecord, Reject
from leakcache.errors import ImageError
from leakcache.images.archive import in_order, read_image
from leakcache.images.decode import decoded
from leakcache.images.preprocess import canonical_bytes
from leakcache.progress import track
from leaknet.audit.file_facts import FileFacts, read_facts

SIDE = 8
_MIN_SIDE = 64
"""Smallest side to which a JPEG may be reduced in decoding; the perceptual hash needs 32."""


def thumbnail(image: Image.Image) -> UInt8[np.ndarray, "8 8 3"]:
    """Mean colour of each cell of an 8×8 grid over the whole RGB image."""
    return np.asarray(image.resize((SIDE, SIDE), Image.Resampling.BOX))


def thumbnail_features(
    thumbnails: UInt8[np.ndarray, "image 8 8 3"],
) -> Float32[np.ndarray, "image 192"]:
    """One row per image, in [0, 1]."""
    features: Float32[np.ndarray, "image 192"] = thumbnails.reshape(
        len(thumbnails), -1
    ) / np.float32(255)
    return features


@dataclass(frozen=True)
class Observation:
    """One image: hash and native size of the file, all else of the audited form."""

    sha256: str
    native: tuple[int, int]
    facts: FileFacts
    thumbnail: UInt8[np.ndarray, "8 8 3"]
    phash: int


@dataclass(frozen=True)
class Observations:
    """All readable files of a data set and its open sets, one row per image.

    Attributes:
        native: width and height of the file.
        facts: file facts, of the canonical form on the canonical track.
        thumbnails: mean colours.
        phashes: perceptual hashes.
        hashes: sha256 of the files.
        labels, groups, folds: of the index; fold `open` marks unknown generators.
        paths: relative to the data root; those of further open roots start with the root's name.
        unreadable: files that cannot be decoded, with the reason.
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
        """Which images belong to the open set."""
        unknown: Bool[np.ndarray, "image"] = self.folds == "open"
        return unknown

    def take(self, chosen: Bool[np.ndarray, "image"]) -> Observations:
        """The chosen rows."""
        arrays = {name: v[chosen] for name, v in vars(self).items() if isinstance(v, np.ndarray)}
        return replace(self, facts=tuple(self.facts[k] for k in np.flatnonzero(chosen)), **arrays)


def observe_data(
    index: DatasetIndex, open_indices: Sequence[DatasetIndex] = (), side: int | None = None
) -> Observations:
    """Read every image of the index and every open image of `open_indices` once.

    With `side`, the canonical form of that side is observed instead of the file.
    """
    records = [*index.records]
    files = [index.root / record.path for record in records]
    for extra in open_indices:
        chosen = extra.select("open").records
        records += [replace(r, path=f"{extra.root.name}/{r.path}") for r in chosen]
        files += [extra.root / record.path for record in chosen]
    observed: list[tuple[ImageRecord, Observation]] = []
    unreadable: list[Reject] = []
    with track("reading", len(files), "images") as advance:
        results = in_order(partial(_try_observe, side=side), files)
        for record, result in zip(records, results, strict=True):
            if isinstance(result, Observation):
                observed.append((record, result))
            else:
                unreadable.append(Reject(record.path, result))
            advance(1)
    return _table(observed, unreadable)


def observe(data: bytes, side: int | None = None) -> Observation:
    """Observe one file's bytes; raises ImageError if they cannot be decoded."""
    sha256 = hashlib.sha256(data).hexdigest()
    native: tuple[int, int] | None = None
    if side is not None:
        with decoded(data) as whole:
            native, data = whole.size, canonical_bytes(whole, side)
    facts = read_facts(data)
    native = native or (facts.width, facts.height)
    with decoded(data, least=_MIN_SIDE) as image:
        return Observation(sha256, native, facts, thumbnail(image), perceptual_hash(image))


def _try_observe(path: Path, side: int | None) -> Observation | str:
    """The observation, or the reason why the file cannot be read."""
    try:
        return observe(read_image(path), side)
    except OSError as error:
        return f"cannot be read ({error.strerror})"
    except ImageError as error:
        return str(error)


def _table(
    observed: Sequence[tuple[ImageRecord, Observation]], unreadable: Sequence[Reject]
) -> Observations:
    records = [record for record, _ in observed]
    observations = [observation for _, observation in observed]
    return Observations(
        native=np.array([o.native for o in observations], np.int64).reshape(-1, 2),
        facts=tuple(o.facts for o in observations),
        thumbnails=np.array([o.thumbnail for o in observations], np.uint8).reshape(-1, 8, 8, 3),
        phashes=np.array([o.phash for o in observations], np.uint64),
        hashes=np.array([o.sha256 for o in observations], str),
        labels=np.array([r.label for r in records], str),
        groups=np.array([r.group for r in records], str),
        folds=np.array([r.fold for r in records], str),
        paths=np.array([r.path for r in records], str),
        unreadable=tuple(unreadable),
    )


Texts = Shaped[np.ndarray, "image"]

MAX_DISTANCE = 4
"""Largest Hamming distance between the 64-bit perceptual hashes of near duplicates.

Among the 1,680 + 440 different images of the benchmarks the closest pair has distance 6."""

_BLOCK = 256
# By construction half of the bits of an image's hash are set. An image of one colour has hardly
# any, and they carry no information.
_MIN_BITS = 16


def perceptual_hash(image: Image.Image) -> int:
    """`imagehash.phash` (signs of 8×8 low frequencies) of an RGB image as a 64-bit integer."""
    bits = imagehash.phash(image).hash.ravel()
    return int.from_bytes(np.packbits(bits).tobytes())


@dataclass(frozen=True)
class DuplicateSet:
    """Rows of images that are duplicates of each other.

    A duplicate across folds lets a model memorise instead of generalise. Under two labels it has no
    correct class; in the closed and the open set it is known and unknown at once.

    Attributes:
        rows: of the images, ascending.
        folds: of the images, sorted; more than one is a leak between folds.
        labels: of the images, sorted; more than one is a contradiction.
        groups: prompt groups of the images, sorted. Near duplicates within one group are normal:
            same prompt, same initial noise.
    """

    rows: tuple[int, ...]
    folds: tuple[str, ...]
    labels: tuple[str, ...]
    groups: tuple[str, ...]

    @property
    def crosses_folds(self) -> bool:
        """Whether the images are in more than one closed fold."""
        return len(set(self.folds) - {"open"}) > 1

    @property
    def crosses_labels(self) -> bool:
        """Whether the images have more than one label."""
        return len(self.labels) > 1

    @property
    def crosses_sets(self) -> bool:
        """Whether the images are in both the open and the closed set."""
        return "open" in self.folds and len(self.folds) > 1


def exact_duplicates(
    hashes: Texts, folds: Texts, labels: Texts, groups: Texts
) -> list[DuplicateSet]:
    """Sets of images with equal files, by content hash."""
    return _sets(_repeated(hashes), folds, labels, groups)


def near_duplicates(
    phashes: UInt64[np.ndarray, "image"], hashes: Texts, folds: Texts, labels: Texts, groups: Texts
) -> list[DuplicateSet]:
    """Connected components of images with perceptual hashes at most `MAX_DISTANCE` apart.

    Sets of equal files only are omitted: `exact_duplicates` returns them. All pairs are compared,
    in blocks; 20,000 images take about a second.
    """
    usable = np.flatnonzero(~blank_images(phashes))
    first, second = usable[_close_pairs(phashes[usable])].T
    graph = coo_array((np.ones(len(first)), (first, second)), shape=(len(phashes),) * 2)
    _, component = connected_components(graph, directed=False)
    different = (rows for rows in _repeated(component) if len(set(hashes[rows].tolist())) > 1)
    return _sets(different, folds, labels, groups)


def blank_images(phashes: UInt64[np.ndarray, "image"]) -> Bool[np.ndarray, "image"]:
    """Which images have a single colour (the output of a safety filter or a failed run)."""
    blank: Bool[np.ndarray, "image"] = np.bitwise_count(phashes) < _MIN_BITS
    return blank


def _close_pairs(phashes: UInt64[np.ndarray, "usable"]) -> Int[np.ndarray, "pair 2"]:
    pairs = [np.empty((0, 2), np.int64)]
    for start in range(0, len(phashes), _BLOCK):
        block = phashes[start : start + _BLOCK]
        distances = np.bitwise_count(block[:, None] ^ phashes[None, start:])
        close = np.argwhere(distances <= MAX_DISTANCE)
        pairs.append(start + close[close[:, 0] < close[:, 1]])
    return np.concatenate(pairs)


def _repeated(values: Texts) -> list[list[int]]:
    """Rows of every value that occurs more than once, by first occurrence."""
    rows: defaultdict[object, list[int]] = defaultdict(list)
    for row, value in enumerate(values.tolist()):
        rows[value].append(row)
    return [same for same in rows.values() if len(same) > 1]


def _sets(members: Iterable[list[int]], *columns: Texts) -> list[DuplicateSet]:
    return [
        DuplicateSet(tuple(rows), *(tuple(sorted(set(c[rows].tolist()))) for c in columns))
        for rows in members
    ]
