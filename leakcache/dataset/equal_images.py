"""Equal images of an index, found without a cache."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from leakcache.dataset.findings import join_equal_pixels
from leakcache.dataset.records import DatasetIndex, Finding
from leakcache.errors import ImageError
from leakcache.images.archive import archive_of, hash_file, in_order, read_image
from leakcache.images.decode import decoded, pixels_hash
from leakcache.progress import track

MOST_BYTES = 2**28
"""Bytes of all files up to which pixels are compared; of more, files of one length and content."""


def join_equal_images(index: DatasetIndex) -> DatasetIndex:
    """Make equal images one group, as a build does, and name those in several folds or classes."""
    root, paths = index.root, [record.path for record in index.records]
    files = {path: _file(root / path) for path in paths}
    lengths = {file: _length(file) for file in dict.fromkeys(files.values())}
    if sum(lengths.values()) <= MOST_BYTES:
        joined, equal = join_equal_pixels(index, _hashes(root, paths, _hash_pixels))
        return replace(joined, findings=(*joined.findings, *equal))
    counts = Counter(lengths.values())
    alike = [p for p in paths if files[p] == root / p and counts[lengths[files[p]]] > 1]
    joined, equal = join_equal_pixels(index, _hashes(root, alike, hash_file))
    sentence = (
        "of so many images only equal files are found here; `leak cache build` compares pixels"
    )
    return replace(joined, findings=(*joined.findings, *equal, Finding("note", sentence)))


def _file(path: Path) -> Path:
    """The file that holds an image: itself, or the archive that it lies in."""
    found = archive_of(path)
    return found[0] if found else path


def _length(file: Path) -> int:
    try:
        return file.stat().st_size
    except OSError:
        return 0


def _hashes(root: Path, paths: Sequence[str], hashed: Callable[[Path], str]) -> dict[str, str]:
    """Hash by path; without files that cannot be read."""
    found = {}
    with track("comparing", len(paths), "images") as advance:
        results = in_order(hashed, (root / path for path in paths))
        for path, result in zip(paths, results, strict=True):
            if result:
                found[path] = result
            advance(1)
    return found


def _hash_pixels(path: Path) -> str:
    """Hash of the decoded pixels; empty for what is no image."""
    try:
        with decoded(read_image(path)) as image:
            return pixels_hash(image)
    except (OSError, ImageError):
        return ""
