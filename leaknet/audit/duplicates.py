"""The same picture twice: equal files, and pictures that look alike though their bytes differ.

A picture in two folds lets a model remember instead of recognise; under two labels it has no
right answer; in the closed and the open set it is known and unknown at once.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import imagehash
import numpy as np
from jaxtyping import Bool, Shaped, UInt64
from PIL import Image

LIKENESS = 4
"""Bits of 64 in which the perceptual hashes of near duplicates may differ.

Among the 1,680 + 440 different pictures of our benches the closest pair differs in 6."""

_BITS = 64
_BLOCK = 256
# Half of the bits of a picture's hash are set, by construction; in those of an image of one
# colour there are hardly any, and they mean nothing.
_FEWEST_BITS = 16


def perceptual_hash(image: Image.Image) -> int:
    """`imagehash.phash` (signs of 8×8 low frequencies) of an RGB image as a 64-bit number."""
    bits = imagehash.phash(image).hash.ravel()
    return int.from_bytes(np.packbits(bits).tobytes())


@dataclass(frozen=True)
class DuplicateSet:
    """Rows of images that are one picture, with what parts them.

    Attributes:
        rows: of the images, ascending.
        folds: that they lie in, sorted; more than one is a leak between folds.
        labels: that they carry, sorted; more than one is a contradiction.
        groups: prompt groups of the images, sorted. Near duplicates of one group are what
            generators make of the same prompt and the same noise.
    """

    rows: tuple[int, ...]
    folds: tuple[str, ...]
    labels: tuple[str, ...]
    groups: tuple[str, ...]

    @property
    def crosses_folds(self) -> bool:
        """Whether copies lie in different closed folds."""
        return len(set(self.folds) - {"open"}) > 1

    @property
    def crosses_labels(self) -> bool:
        """Whether copies carry different labels."""
        return len(self.labels) > 1

    @property
    def crosses_sets(self) -> bool:
        """Whether a copy is in the open set and another in the closed set."""
        return "open" in self.folds and len(self.folds) > 1


def exact_duplicates(
    hashes: Shaped[np.ndarray, "image"],
    folds: Shaped[np.ndarray, "image"],
    labels: Shaped[np.ndarray, "image"],
    groups: Shaped[np.ndarray, "image"],
) -> list[DuplicateSet]:
    """Sets of images whose files are equal, by content hash."""
    by_hash: defaultdict[str, list[int]] = defaultdict(list)
    for row, sha256 in enumerate(hashes.tolist()):
        by_hash[sha256].append(row)
    return _sets((rows for rows in by_hash.values() if len(rows) > 1), folds, labels, groups)


def near_duplicates(
    phashes: UInt64[np.ndarray, "image"],
    hashes: Shaped[np.ndarray, "image"],
    folds: Shaped[np.ndarray, "image"],
    labels: Shaped[np.ndarray, "image"],
    groups: Shaped[np.ndarray, "image"],
) -> list[DuplicateSet]:
    """Sets of images linked by perceptual hashes that differ in at most `LIKENESS` bits.

    Sets of equal files only are left out, as `exact_duplicates` has them. All pairs are
    compared, in blocks: 20,000 images take about a second.
    """
    usable = np.flatnonzero(np.bitwise_count(phashes) >= _FEWEST_BITS)
    parent = list(range(len(phashes)))
    for first, second in _close_pairs(phashes[usable]):
        _join(parent, int(usable[first]), int(usable[second]))
    linked: defaultdict[int, list[int]] = defaultdict(list)
    for row in usable.tolist():
        linked[_root(parent, row)].append(row)
    different = (rows for rows in linked.values() if len(set(hashes[rows].tolist())) > 1)
    return _sets(different, folds, labels, groups)


def blank_images(phashes: UInt64[np.ndarray, "image"]) -> Bool[np.ndarray, "image"]:
    """Which pictures are of one colour, as a safety filter or a failed run leaves them."""
    blank: Bool[np.ndarray, "image"] = np.bitwise_count(phashes) < _FEWEST_BITS
    return blank


def _close_pairs(phashes: UInt64[np.ndarray, "usable"]) -> Iterator[tuple[int, int]]:
    for start in range(0, len(phashes), _BLOCK):
        block = phashes[start : start + _BLOCK]
        apart = np.bitwise_count(block[:, None] ^ phashes[None, start:])
        for first, second in np.argwhere(apart <= LIKENESS):
            if second > first:
                yield start + int(first), start + int(second)


def _root(parent: list[int], row: int) -> int:
    while parent[row] != row:
        parent[row] = parent[parent[row]]
        row = parent[row]
    return row


def _join(parent: list[int], first: int, second: int) -> None:
    parent[_root(parent, second)] = _root(parent, first)


def _sets(copies: Iterable[list[int]], *columns: Shaped[np.ndarray, "image"]) -> list[DuplicateSet]:
    return [
        DuplicateSet(
            tuple(sorted(rows)), *(tuple(sorted(set(column[rows].tolist()))) for column in columns)
        )
        for rows in copies
    ]
