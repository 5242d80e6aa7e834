"""The index of a dataset as values: one record an image, one reject for what was left out."""

from __future__ import annotations

import csv
import io
import os
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Literal

from leakcache.errors import DataError
from leakcache.names import cell

FOLDS = ("train", "val", "test", "open")

Split = Literal["closed", "open", "all"]
"""Known generators, unknown ones, or both."""
CUT_FOLDS = FOLDS[:3]
FOLD_NAMES: Mapping[str, str] = {
    "train": "train",
    "training": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "dev": "val",
    "test": "test",
    "testing": "test",
}

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
class Finding:
    """Something about a data set that its owner should know.

    An "error" refuses the data set, a "warning" may spoil what is measured on it, a "note" says
    what was done.
    """

    level: Literal["error", "warning", "note"]
    sentence: str


@dataclass(frozen=True)
class DatasetIndex:
    """Which images there are. `records` are sorted by (fold, label, path); paths are unique.

    `rejects` lists images that cannot be used: unreadable folders and links, images without a
    class, names in a split that are not on disk. Other files are passed over. `layout` says in
    one sentence how the root was understood, `findings` what was noticed on the way.
    `cut_seed` is the seed of the fold cut, None where the folds were given. `source` is the folder
    or table that was read, None for the root, and `reading` the options of `read_index` for it.
    """

    root: Path
    records: tuple[ImageRecord, ...]
    rejects: tuple[Reject, ...]
    layout: str
    findings: tuple[Finding, ...] = ()
    cut_seed: int | None = None
    source: Path | None = None
    reading: Mapping[str, str | int] = field(default_factory=dict)

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

    def as_csv(self, folder: Path) -> str:
        """The records as `path,label,group,fold`, for a file in `folder`."""
        text = io.StringIO()
        # With \r\n between rows, the writer also quotes cells that hold a lone \r.
        writer = csv.writer(text, lineterminator="\r\n")
        writer.writerow(COLUMNS)
        writer.writerows(
            (
                _path_cell(relative_to(self.root, record.path, folder)),
                cell(record.label),
                cell(record.group),
                record.fold,
            )
            for record in self.records
        )
        return text.getvalue()

    def write_csv(self, path: Path) -> None:
        """Write `path,label,group,fold`, which `read_index` reads back to the same records.

        Paths below the file's folder are written relative to it, others absolute, so a file
        at the root can be moved with the images. Raises DataError where it cannot be written.
        """
        folder = Path(os.path.normpath(path.absolute().parent))
        try:
            folder.mkdir(parents=True, exist_ok=True)
            with path.open("w", encoding="utf-8", newline="") as file:
                file.write(self.as_csv(folder))
        except OSError as error:
            raise DataError(
                f"{path} cannot be written ({error.strerror}): choose another file with --out"
            ) from error


def _path_cell(path: str) -> str:
    # A prefix of ./ changes no path, so other readers of the table still find the file.
    return f"./{path}" if cell(path) != path else path


def relative_to(root: Path, path: str, folder: Path) -> str:
    """`path`, given relative to `root` or absolute, as POSIX text: relative below `folder`."""
    full = os.path.normpath(f"{root.as_posix()}/{path}" if not path.startswith("/") else path)
    prefix = folder.as_posix().rstrip("/") + "/"
    return full.removeprefix(prefix)


def canonical(records: Iterable[ImageRecord]) -> tuple[ImageRecord, ...]:
    """Records sorted by (fold order, label, path)."""
    return tuple(sorted(records, key=lambda r: (_FOLD_ORDER[r.fold], r.label, r.path)))
