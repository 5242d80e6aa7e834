"""The index of a dataset as values: one record an image, one reject for what was left out."""

from __future__ import annotations

import csv
import os
from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Literal

from leakcache.errors import DataError

FOLDS = ("train", "val", "test", "open")

Split = Literal["closed", "open", "all"]
"""Known generators, unknown ones, or both."""
CUT_FOLDS = FOLDS[:3]
COLUMNS = ("path", "label", "group", "fold")

_FOLD_ORDER = {fold: place for place, fold in enumerate(FOLDS)}


@dataclass(frozen=True)
class ImageRecord:
    """One image: where it lies, which generator made it, and where it may be used.

    `path` is relative to the index's root with POSIX separators (absolute only where a CSV
    or Parquet file points outside its own folder); `group` is the prompt group: images that
    share it are never parted by a cut of ours; `fold` is one of `FOLDS`, where "open" marks
    generators that are never trained on.
    """

    path: str
    label: str
    group: str
    fold: str


@dataclass(frozen=True)
class Reject:
    """A file, folder or split entry that was left out, and why."""

    path: str
    reason: str


@dataclass(frozen=True)
class DatasetIndex:
    """Which images there are. `records` are sorted by (fold, label, path); paths are unique.

    `rejects` lists unreadable folders, empty classes, files that no reader took and names in
    a split that are not on disk; `layout` says in one sentence how the root was understood.
    """

    root: Path
    records: tuple[ImageRecord, ...]
    rejects: tuple[Reject, ...]
    layout: str

    @cached_property
    def classes(self) -> tuple[str, ...]:
        """Labels of the known generators, sorted."""
        return tuple(sorted({r.label for r in self.records if r.fold != "open"}))

    @cached_property
    def unknown(self) -> tuple[str, ...]:
        """Labels of the open set, sorted."""
        return tuple(sorted({r.label for r in self.records if r.fold == "open"}))

    @cached_property
    def crossing_groups(self) -> tuple[str, ...]:
        """Groups with images in more than one of train, val and test, sorted.

        Empty for every cut of ours; a given split or index file may part a group, and its
        word stands.
        """
        folds: defaultdict[str, set[str]] = defaultdict(set)
        for record in self.records:
            if record.fold != "open":
                folds[record.group].add(record.fold)
        return tuple(sorted(group for group, where in folds.items() if len(where) > 1))

    def select(self, which: Split) -> DatasetIndex:
        """The same index with the known generators only, the open set only, or all of it."""
        if which == "all":
            return self
        keep = tuple(r for r in self.records if (r.fold == "open") == (which == "open"))
        return replace(self, records=keep)

    def counts(self) -> dict[str, dict[str, int]]:
        """Images per label and fold; every label has all of `FOLDS`, zeros included."""
        tally = Counter((record.label, record.fold) for record in self.records)
        labels = (*self.classes, *self.unknown)
        return {label: {fold: tally[label, fold] for fold in FOLDS} for label in labels}

    def write_csv(self, path: Path) -> None:
        """Write `path,label,group,fold`, which `read_index` reads back to the same records.

        Paths below the file's folder are written relative to it, others absolute, so a file
        at the root can be moved with the images. Raises DataError where it cannot be written.
        """
        folder = Path(os.path.normpath(path.absolute().parent))
        try:
            folder.mkdir(parents=True, exist_ok=True)
            with path.open("w", encoding="utf-8", newline="") as file:
                writer = csv.writer(file, lineterminator="\n")
                writer.writerow(COLUMNS)
                writer.writerows(
                    (relative_to(self.root, r.path, folder), r.label, r.group, r.fold)
                    for r in self.records
                )
        except OSError as error:
            raise DataError(
                f"{path} cannot be written ({error.strerror}): choose another file with --out"
            ) from error


def relative_to(root: Path, path: str, folder: Path) -> str:
    """`path`, given relative to `root` or absolute, as POSIX text: relative below `folder`."""
    full = os.path.normpath(f"{root.as_posix()}/{path}" if not path.startswith("/") else path)
    prefix = folder.as_posix().rstrip("/") + "/"
    return full.removeprefix(prefix)


def canonical(records: Iterable[ImageRecord]) -> tuple[ImageRecord, ...]:
    """Records sorted by (fold order, label, path)."""
    return tuple(sorted(records, key=lambda r: (_FOLD_ORDER[r.fold], r.label, r.path)))
