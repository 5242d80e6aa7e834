"""What a data set's owner should know before anything is computed on it, equal images among it."""

from __future__ import annotations

import unicodedata
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from leakcache.dataset.placed import shared_depth
from leakcache.dataset.records import (
    CUT_FOLDS,
    DatasetIndex,
    Finding,
    ImageRecord,
    Split,
    canonical,
)
from leakcache.dataset.split_file import cut_folds
from leakcache.errors import DataError, ImageError
from leakcache.images.archive import archive_of, hash_file, in_order, read_image
from leakcache.names import normal_form, outline, visible
from leakcache.progress import track

FEWEST = 3
"""Images that a class needs, one for each of train, val and test."""
NAMED = 3


def inspect(index: DatasetIndex, split: Split = "all") -> tuple[Finding, ...]:
    """All findings of an index, errors first: those of its reading and those of its counts."""
    found = list(index.findings)
    if split != "open" and index.classes:
        found += [*_classes(index), *_look_alike(index), *_crossing(index), *_folds(index)]
    order = ("error", "warning", "note")
    return tuple(sorted(dict.fromkeys(found), key=lambda finding: order.index(finding.level)))


def refuse_errors(index: DatasetIndex, split: Split = "all") -> tuple[Finding, ...]:
    """The findings of an index without errors.

    Raises:
        DataError: there are errors; the message has the first.
    """
    found = inspect(index, split)
    errors = [finding.sentence for finding in found if finding.level == "error"]
    if errors:
        more = f" (and {len(errors) - 1} more, see `leak data index`)" if len(errors) > 1 else ""
        raise DataError(errors[0] + more)
    return found


def _some(names: Iterable[str]) -> str:
    shown = [visible(name) for name in names]
    return ", ".join(shown[:NAMED]) + (f", … ({len(shown)} in all)" if len(shown) > NAMED else "")


def _classes(index: DatasetIndex) -> list[Finding]:
    if len(index.classes) == 1:
        label = index.classes[0]
        folder, below = _folders_below(index)
        hint = f"; if {_some(below)} are the classes, give {index.root}/{folder}" if below else ""
        sentence = (
            f"{index.root} has a single class, {visible(label)}: attribution needs two or more, "
            f"one folder or label a generator{hint}"
        )
        return [Finding("error", sentence)]
    counts = Counter(r.label for r in index.records if r.fold != "open")
    return [
        Finding("warning", f"class {visible(label)} has {small_class(count)}")
        for label, count in sorted(counts.items())
        if count < FEWEST
    ]


def _look_alike(index: DatasetIndex) -> list[Finding]:
    """A warning for labels that differ, but look the same."""
    alike: defaultdict[str, list[str]] = defaultdict(list)
    for label in (*index.classes, *index.unknown):
        alike[outline(label)].append(label)
    return [
        Finding(
            "warning",
            f"the labels {' and '.join(map(ascii, names))} look alike: give them one spelling if "
            "they are one generator",
        )
        for names in alike.values()
        if len(names) > 1
    ]


def small_class(images: int) -> str:
    """What is wrong with a class of so few images, as the end of a sentence."""
    counted = "1 image" if images == 1 else f"{images} images"
    return (
        f"{counted}, and training needs {FEWEST} or more, one in each of train, val and test: add "
        "images or leave the class out"
    )


def refuse_small_classes(counts: Mapping[str, int]) -> None:
    """Refuse classes that are too small to be trained on.

    Raises:
        DataError: a class has fewer than `FEWEST` images, or there are fewer than two classes.
    """
    for label, count in sorted(counts.items()):
        if count < FEWEST:
            raise DataError(f"class {visible(label)} has {small_class(count)}")
    if len(counts) < 2:
        raise DataError(f"a single class, {_some(counts)}: attribution needs two or more")


def _folders_below(index: DatasetIndex) -> tuple[str, list[str]]:
    """The folder in which the images part, and the folders there; none where there are no two."""
    folders = [record.path.split("/")[:-1] for record in index.records]
    depth = shared_depth(folders)
    below = sorted({"".join(parts[depth : depth + 1]) for parts in folders})
    return "/".join(folders[0][:depth]), below if len(below) > 1 else []


def _crossing(index: DatasetIndex) -> list[Finding]:
    crossing = index.crossing_groups
    if not crossing:
        return []
    have = "1 prompt group has" if len(crossing) == 1 else f"{len(crossing)} prompt groups have"
    sentence = (
        f"{have} images in several folds: {_some(crossing)}. Test scores may be too good; if the "
        "file numbers restart in each fold, give --group file"
    )
    return [Finding("warning", sentence)]


def _folds(index: DatasetIndex) -> list[Finding]:
    tally = Counter(record.fold for record in index.records)
    found = _folds_of_classes(index) if index.cut_seed is None else []
    for fold, use in (
        ("train", "nothing can be trained"),
        ("val", "training needs it to select the epoch and to calibrate"),
        ("test", "`leak score` and `leak evaluate` need it"),
    ):
        if not tally[fold]:
            found.append(Finding("warning", f"no image is in the fold {fold}: {use}"))
    return found


def _folds_of_classes(index: DatasetIndex) -> list[Finding]:
    """Classes that given folds leave without training, validation or test images."""
    counts = index.counts()
    found = []
    for fold in CUT_FOLDS:
        lacking = [label for label in index.classes if not counts[label][fold]]
        if not lacking or len(lacking) == len(index.classes):
            continue
        if fold == "train":
            sentence = (
                f"no image of class {_some(lacking)} is in the fold train, so it cannot be "
                "learned: add images, or give its images the fold open to score it as an unknown "
                "generator"
            )
            found.append(Finding("error", sentence))
        else:
            sentence = f"no image of class {_some(lacking)} is in the fold {fold}"
            found.append(Finding("warning", sentence))
    return found


# Names that look alike.


def merge_alike(records: Sequence[ImageRecord]) -> tuple[list[ImageRecord], list[Finding]]:
    """The records with one spelling for labels, and for groups, that have the same normal form.

    The spelling that most images have is kept, among equals the first.
    """
    labels, merged = _spellings(r.label for r in records)
    groups, _ = _spellings(r.group for r in records)
    found = [
        Finding(
            "warning",
            f"the labels {' and '.join(_quoted(names))} are merged into "
            f"'{visible(kept)}': they differ only in case, white space, Unicode form or invisible "
            "characters",
        )
        for kept, names in merged.items()
    ]
    return [replace(r, label=labels[r.label], group=groups[r.group]) for r in records], found


def _quoted(names: Sequence[str]) -> list[str]:
    """Names in quotes; those that look the same as others with escapes."""
    same = len({unicodedata.normalize("NFC", name) for name in names}) < len(names)
    return [f"'{ascii(name)[1:-1] if same else visible(name)}'" for name in names]


def _spellings(names: Iterable[str]) -> tuple[dict[str, str], dict[str, list[str]]]:
    """The spelling that stands for each name, and the names that stand for several."""
    alike: defaultdict[str, Counter[str]] = defaultdict(Counter)
    for name, count in Counter(names).items():
        alike[normal_form(name)][name] = count
    kept: dict[str, str] = {}
    merged: dict[str, list[str]] = {}
    for spellings in alike.values():
        best = min(spellings, key=lambda name: (-spellings[name], len(name), name)).strip()
        kept |= dict.fromkeys(spellings, best)
        if len(spellings) > 1:
            merged[best] = sorted(spellings)
    return kept, merged


# What only the pixels tell; for a build, once the images are decoded.


def join_equal_pixels(
    index: DatasetIndex, pixels: Mapping[str, str]
) -> tuple[DatasetIndex, tuple[Finding, ...]]:
    """Make images of equal pixels one group, and name those in several folds or classes.

    Folds that were cut here are cut again, so that equal pixels are in one fold.

    Args:
        index: the data set.
        pixels: a hash of the decoded pixels by path; images without one are left as they are.
    """
    same: defaultdict[str, list[ImageRecord]] = defaultdict(list)
    for record in index.records:
        if record.path in pixels:
            same[pixels[record.path]].append(record)
    twins = [records for records in same.values() if len(records) > 1]
    if not twins:
        return index, ()
    groups = _joined(twins)
    records = [replace(r, group=groups.get(r.group, r.group)) for r in index.records]
    if index.cut_seed is not None:
        closed = [(r.group, r.label) for r in records if r.fold != "open"]
        folds = cut_folds(closed, index.cut_seed)
        records = [r if r.fold == "open" else replace(r, fold=folds[r.group]) for r in records]
    joined = replace(index, records=canonical(records))
    return joined, _about_twins(joined, twins)


def _joined(twins: Sequence[Sequence[ImageRecord]]) -> dict[str, str]:
    """One group for all that are connected by equal pixels."""
    parent: dict[str, str] = {}

    def find(group: str) -> str:
        while parent.setdefault(group, group) != group:
            group = parent[group]
        return group

    for records in twins:
        first = find(records[0].group)
        for record in records[1:]:
            low, high = sorted((first, find(record.group)))
            parent[high] = first = low
    return {group: find(group) for group in parent}


def _about_twins(
    index: DatasetIndex, twins: Sequence[Sequence[ImageRecord]]
) -> tuple[Finding, ...]:
    now = {record.path: record for record in index.records}
    found = []
    for column, what in (
        ("label", "several classes, so that one label is wrong"),
        ("fold", "several folds, so that test scores may be too good"),
    ):
        bad = [rs for rs in twins if len({getattr(now[r.path], column) for r in rs}) > 1]
        if bad:
            pair = " and ".join(visible(r.path) for r in bad[0][:2])
            sets = "1 set of images has" if len(bad) == 1 else f"{len(bad)} sets of images have"
            sentence = f"{sets} equal pixels in {what}: {pair}"
            found.append(Finding("warning", sentence))
    if not found:
        extra = sum(len(records) - 1 for records in twins)
        pair = " and ".join(visible(r.path) for r in twins[0][:2])
        sentence = f"{extra} images repeat the pixels of others and are in their group: {pair}"
        found.append(Finding("warning", sentence))
    return tuple(found)


def refuse_vanished(root: Path, records: Iterable[ImageRecord], reasons: Mapping[str, str]) -> None:
    """Refuse a data set of which a class has lost all its images.

    Args:
        root: named in the error.
        records: of all images.
        reasons: why an image cannot be used, by path.

    Raises:
        DataError: no image of a class can be used.
    """
    lost: defaultdict[str, list[str]] = defaultdict(list)
    kept = set()
    for record in records:
        if record.path in reasons:
            lost[record.label].append(record.path)
        else:
            kept.add(record.label)
    gone = sorted(set(lost) - kept)
    if gone:
        paths = lost[gone[0]]
        raise DataError(
            f"{root}: none of the {len(paths)} images of class {visible(gone[0])} can be used "
            f"({visible(paths[0])}: {reasons[paths[0]]}); mend or remove the class"
        )


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
    from leakcache.images.decode import decoded, pixels_hash

    try:
        with decoded(read_image(path)) as image:
            return pixels_hash(image)
    except (OSError, ImageError):
        return ""
