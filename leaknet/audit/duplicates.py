"""Duplicate images: equal files, and near duplicates by perceptual hash.

A duplicate across folds lets a model memorise instead of generalise. Under two labels it has no
correct class; in the closed and the open set it is known and unknown at once.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass

import imagehash
import numpy as np
from jaxtyping import Bool, Int, Shaped, UInt64
from PIL import Image
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

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
