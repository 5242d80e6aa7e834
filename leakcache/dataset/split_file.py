"""Folds: cut by prompt group, also of photographs beside the data, or read from its split file.

The forms of a split file that are seen in use:

    {"train": {"<Class>": ["a.png", ...]}, "val": ..., "test": ...}    file names by class
    {"train": {"<Class>": [0, 1, ...]}, ...}                           positions by class
    {"train": ["<Class>/a.png", "b.png", ...], ...}                    one list of file names
    {"train": [0, 1, ...], ...}                                        one list of positions

Folds may also be called training, valid, validation and testing; they and the classes are
matched in any case. A position counts the images of one class in order of lower-cased name,
in a list without classes too: there it means the same position in every class, as a bare file
name means that file in every class that has it.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from leakcache.dataset.placed import ClassFolder
from leakcache.dataset.records import (
    CUT_FOLDS,
    FOLD_NAMES,
    DatasetIndex,
    ImageRecord,
    Reject,
    canonical,
    relative_to,
    scan,
    step_of,
)
from leakcache.errors import DataError
from leakcache.names import normal_form

FRACTIONS = {"train": 0.5, "val": 0.2, "test": 0.3}
# Ties go to the larger fold, so that a class of one or two groups can at least be trained on.
_BY_SIZE = tuple(sorted(CUT_FOLDS, key=lambda fold: -FRACTIONS[fold]))
_FEWEST = len(CUT_FOLDS)
_MOST_MOVES = 100


def cut_folds(images: Iterable[tuple[str, str]], seed: int = 0) -> dict[str, str]:
    """Fold of every group, given (group, label) once for each image.

    Groups are dealt one at a time, the largest first and otherwise in an order drawn from the
    seed, to the fold in which they bring every class closest to half training, a fifth
    validation and three tenths test: the fall of Σ over classes and folds of (images there −
    images due)² / (images of the class)². Groups are then moved until every class of three or
    more has all three folds, as far as the classes that share them allow.
    """
    deal = _GroupAssignment(_label_counts(images))
    for group in sorted(deal.labels, key=lambda g: (-deal.labels[g].total(), _draw(g, seed))):
        deal.put(group, min(_BY_SIZE, key=lambda fold: deal.cost(group, fold)))
    _repair(deal)
    return {group: deal.folds[group] for group in sorted(deal.folds)}


def _label_counts(images: Iterable[tuple[str, str]]) -> dict[str, Counter[str]]:
    counts: dict[str, Counter[str]] = {}
    for group, label in sorted(images):
        counts.setdefault(group, Counter())[label] += 1
    return counts


def _draw(group: str, seed: int) -> bytes:
    return hashlib.sha256(f"{seed}\0{group}".encode()).digest()


@dataclass
class _GroupAssignment:
    """Which group is in which fold so far, with images and groups counted by (label, fold)."""

    labels: dict[str, Counter[str]]
    folds: dict[str, str] = field(default_factory=dict)
    images: Counter[tuple[str, str]] = field(default_factory=Counter)
    groups: Counter[tuple[str, str]] = field(default_factory=Counter)
    size: Counter[str] = field(default_factory=Counter)
    members: dict[str, list[str]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for group, counts in self.labels.items():
            self.size.update(counts)
            for label in counts:
                self.members.setdefault(label, []).append(group)

    def cost(self, group: str, fold: str) -> float:
        """Change of the objective if the group joined the fold, less what all folds share."""
        return sum(
            count
            * (self.images[label, fold] - FRACTIONS[fold] * self.size[label])
            / self.size[label] ** 2
            for label, count in self.labels[group].items()
        )

    def put(self, group: str, fold: str) -> None:
        """Move the group to the fold, from wherever it was."""
        before = self.folds.get(group)
        for label, count in self.labels[group].items():
            if before is not None:
                self.images[label, before] -= count
                self.groups[label, before] -= 1
            self.images[label, fold] += count
            self.groups[label, fold] += 1
        self.folds[group] = fold

    def missing(self) -> list[tuple[str, str]]:
        """(label, fold) pairs without a group, of the classes that have groups enough."""
        return [
            (label, fold)
            for label, groups in sorted(self.members.items())
            for fold in CUT_FOLDS
            if len(groups) >= _FEWEST and not self.groups[label, fold]
        ]


def _repair(deal: _GroupAssignment) -> None:
    """Give lacking classes their folds: the best move at a time, each group once, keep the best.

    A move may rob another class, which a later one makes good: so swaps and rings are found.
    """
    fewest = len(deal.missing())
    if not fewest:
        return
    moved: set[str] = set()
    best = dict(deal.folds)
    while fewest:
        moves = [
            (group, fold)
            for label, fold in deal.missing()
            for group in deal.members[label]
            if group not in moved
        ]
        if not moves or len(moved) == _MOST_MOVES:
            break
        group, fold = min(moves, key=lambda move: _after(deal, *move))
        deal.put(group, fold)
        moved.add(group)
        if len(deal.missing()) < fewest:
            best, fewest = dict(deal.folds), len(deal.missing())
    for group, fold in best.items():
        deal.put(group, fold)


def _after(deal: _GroupAssignment, group: str, fold: str) -> tuple[int, float]:
    """Pairs still missing and change of the objective if the group moved; nothing is moved."""
    origin = deal.folds[group]
    change = deal.cost(group, fold) - deal.cost(group, origin)
    deal.put(group, fold)
    missing = len(deal.missing())
    deal.put(group, origin)
    return missing, change


@dataclass
class Assignment:
    """Fold of every image that the split names; rejects for names without an image."""

    folds: dict[str, str] = field(default_factory=dict)
    rejects: list[Reject] = field(default_factory=list)


def find_split(root: Path) -> Path | None:
    """The root's Split.json (any case); for a step folder or a Closed_Set also the parent's."""
    try:
        files = sorted(p for p in root.iterdir() if p.name.casefold() == "split.json")
    except OSError:
        return None
    if files:
        return files[0]
    if step_of(root.name) or root.name.casefold() == "closed_set":
        return find_split(root.parent)
    return None


def read_split(path: Path) -> dict[str, object]:
    """What the split says of each fold. Raises DataError where it is no split."""
    try:
        content = json.loads(path.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(f"{path} cannot be read as JSON ({error}): mend or remove it") from error
    folds: dict[str, object] = {}
    for key, value in content.items() if isinstance(content, dict) else ():
        fold = FOLD_NAMES.get(normal_form(key))
        if fold in folds:
            raise DataError(f"{path} names the fold {fold} twice: keep one of the keys")
        if fold:
            folds[fold] = value
    if not folds:
        raise DataError(f"{path} has none of the keys train, val, test: mend or remove it")
    return folds


def assign(path: Path, classes: Sequence[ClassFolder]) -> Assignment:
    """The fold that the split file at `path` gives to each image of the classes.

    Names are matched as they are, then in any case, by base name and by stem (copies in
    another format keep their prompt's stem). Raises DataError where an image falls into two
    folds, or where the split names no image of these classes at all.
    """
    known = _known(path, classes)
    beside = {normal_form(c.label) for c in classes if c.is_open}
    result = Assignment()
    for fold, content in read_split(path).items():
        closed = _without(content, beside)
        for image in _named(path, closed, known, result.rejects):
            if result.folds.setdefault(image, fold) != fold:
                raise DataError(
                    f"{path} puts {image} in both {result.folds[image]} and {fold}: keep one"
                )
    if not result.folds:
        raise DataError(f"{path} names none of the images beside it: mend or remove it")
    return result


def _without(content: object, labels: set[str]) -> object:
    """One fold's content without the classes of those labels: a split may name open ones too."""
    if not isinstance(content, dict):
        return content
    return {key: value for key, value in content.items() if normal_form(key) not in labels}


def _known(path: Path, classes: Sequence[ClassFolder]) -> dict[str, _Names]:
    known: dict[str, _Names] = {}
    for folder in (c for c in classes if not c.is_open):
        twin = known.setdefault(normal_form(folder.label), _Names(folder))
        if twin.folder != folder.folder:
            raise DataError(
                f"{path} cannot tell {twin.folder} from {folder.folder}: rename or merge the two"
            )
    return known


class _Names:
    """Finds the images of one class by what a split may call them."""

    def __init__(self, folder: ClassFolder) -> None:
        self.folder = folder.folder
        inner = folder.names
        self.by_position = sorted(folder.images, key=lambda image: (inner[image].lower(), image))
        self.tables: list[dict[str, str | None]] = [{}, {}, {}, {}]
        for image, name in inner.items():
            for table, key in zip(self.tables, _keys(name), strict=True):
                table[key] = None if key in table else image

    def find(self, entry: object) -> str | None:
        """The one image that the entry means, or None."""
        if isinstance(entry, int):
            return self.by_position[entry] if 0 <= entry < len(self.by_position) else None
        for table, key in zip(self.tables, _keys(str(entry)), strict=True):
            if found := table.get(key):
                return found
        return None


def _keys(name: str) -> tuple[str, str, str, str]:
    folded = normal_form(name)
    base = folded.rpartition("/")[2]
    return name, folded, base, base.rpartition(".")[0] or base


def _named(
    path: Path, content: object, known: Mapping[str, _Names], rejects: list[Reject]
) -> Iterator[str]:
    """Images that one fold's content names; what is not there is added to the rejects."""
    if isinstance(content, list):
        yield from _flat(path, content, known, rejects)
        return
    if not isinstance(content, dict):
        raise DataError(f"{path} must give each fold as lists of files or positions: mend it")
    for label, entries in content.items():
        names = known.get(normal_form(label))
        if names is None:
            rejects.append(Reject(label, f"a class that {path.name} names but the root lacks"))
            continue
        for entry in _entries(path, entries):
            found = names.find(_below(entry, label))
            if found:
                yield found
            else:
                rejects.append(_absent(names.folder, entry, path))


def _flat(
    path: Path, entries: list[object], known: Mapping[str, _Names], rejects: list[Reject]
) -> Iterator[str]:
    """Images of a list without classes: positions and bare names hold for every class."""
    largest = max(len(names.by_position) for names in known.values())
    for entry in _entries(path, entries):
        if isinstance(entry, int) and entry >= largest:
            raise DataError(
                f"{path} names position {entry} but no class has more than {largest} images:"
                " give positions by class"
            )
        hits = [found for names in _meant(entry, known) if (found := names[0].find(names[1]))]
        yield from hits
        if not hits:
            rejects.append(_absent("", entry, path))


def _meant(entry: int | str, known: Mapping[str, _Names]) -> list[tuple[_Names, int | str]]:
    """The classes that an entry of a flat list speaks of, with its name within each."""
    for part in str(entry).split("/")[:-1]:
        if normal_form(part) in known:
            return [(known[normal_form(part)], _below(entry, part))]
    return [(names, entry) for names in known.values()]


def _below(entry: int | str, label: str) -> int | str:
    """A file name without the folders down to its class: Closed_Set/<Class>/a.png is a.png."""
    if isinstance(entry, int):
        return entry
    parts = [part for part in entry.split("/") if part not in ("", ".")]
    folders = [normal_form(part) for part in parts[:-1]]
    start = folders.index(normal_form(label)) + 1 if normal_form(label) in folders else 0
    return "/".join(parts[start:])


def _entries(path: Path, entries: object) -> list[int | str]:
    """The entries of one list. Raises DataError unless they are all positions or all names."""
    if isinstance(entries, list) and all(type(entry) is int for entry in entries):
        return entries
    if isinstance(entries, list) and all(isinstance(entry, str) for entry in entries):
        return [entry.replace("\\", "/") for entry in entries]
    raise DataError(f"{path} must list file names or positions, not {str(entries)[:40]!r}: mend it")


def _absent(folder: str, entry: int | str, path: Path) -> Reject:
    if isinstance(entry, int):
        return Reject(folder or ".", f"position {entry}, named in {path.name}, has no image")
    return Reject(f"{folder}/{entry}".lstrip("/"), f"named in {path.name}, not on disk")


REAL = "real"
"""Label of photographs, also of folders such as `nature` or `0_real` beside generated images."""


def with_photographs(index: DatasetIndex, folder: Path) -> DatasetIndex:
    """Add all images below a folder, at any depth, as class `real`.

    Images in one folder right below it, which may be one camera's, are a prompt group; images
    right in it are groups of their own. Folds are cut by group, half training, a fifth
    validation and three tenths test, so that test photographs are of other cameras.

    Args:
        index: of generated images.
        folder: of photographs.

    Raises:
        DataError: the folder has no images, or the index has a class `real`.
    """
    if REAL in (*index.classes, *index.unknown):
        raise DataError(
            f"--photographs {folder}: the data has a class {REAL} already; leave the option out, "
            "or rename that class"
        )
    root = Path(os.path.normpath(folder.absolute()))
    if not root.is_dir():
        raise DataError(f"--photographs {folder} is no folder: give a folder of photographs")
    tree = scan(root)
    groups = {
        image: f"{root.name}/{image.partition('/')[0]}"
        for images in tree.images.values()
        for image in images
    }
    if not groups:
        raise DataError(f"--photographs {folder} has no images: give a folder of photographs")
    folds = cut_folds([(group, REAL) for group in groups.values()], index.cut_seed or 0)
    records = [
        ImageRecord(relative_to(root, image, index.root), REAL, group, folds[group])
        for image, group in groups.items()
    ]
    inside = {record.path for record in index.records}
    if double := [record.path for record in records if record.path in inside]:
        raise DataError(
            f"--photographs {folder}: {double[0]} is an image of a generator too; take it out of "
            "one of the folders"
        )
    rejects = [Reject(relative_to(root, one.path, index.root), one.reason) for one in tree.rejects]
    return replace(
        index,
        records=canonical([*index.records, *records]),
        rejects=(*index.rejects, *rejects),
        layout=f"{index.layout}. {len(records)} photographs of {root} are the class {REAL}, by "
        f"{len(folds)} groups",
    )
