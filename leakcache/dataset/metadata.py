"""Metadata files beside images, as Hugging Face's ImageFolder reads them."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from leakcache.dataset.folders import Tree
from leakcache.dataset.placed import fold_of
from leakcache.dataset.records import FOLD_NAMES, Reject
from leakcache.dataset.table_file import PATH, Lines, read_lines, value_of
from leakcache.errors import DataError
from leakcache.names import normal_form

_KNOWN_FOLDS = {**FOLD_NAMES, "open": "open"}


@dataclass
class Described:
    """What the metadata files of a folder say of its images, by path relative to the root.

    Attributes:
        labels: empty where no file has a column of labels.
        groups: of the images that have one.
        folds: from a column, else from a split folder above the file.
        rejects: names without an image.
        sentence: which columns of which files.
    """

    labels: dict[str, str] = field(default_factory=dict)
    groups: dict[str, str] = field(default_factory=dict)
    folds: dict[str, str] = field(default_factory=dict)
    rejects: list[Reject] = field(default_factory=list)
    sentence: str = ""


def read_metadata(
    root: Path, tree: Tree, *, label: str | None = None, group: str | None = None
) -> Described:
    """Read the metadata files of a folder; those that name no files are passed over.

    Raises DataError where one cannot be read, where two rows of a file disagree, or where a
    column that is given is missing.
    """
    described = Described()
    names = _Names(image for images in tree.images.values() for image in images)
    used: list[str] = []
    tables = [read_lines(root / name) for name in sorted(tree.metadata)]
    tables = [table for table in tables if table.first(PATH)]
    has_labels = [table for table in tables if table.label_column(label)]
    for table in has_labels or tables:
        columns = {
            "label": table.label_column(label) if has_labels else None,
            "group": table.group_column(group),
            "fold": table.fold_column(_KNOWN_FOLDS),
        }
        _read(root, table, columns, names, described)
        said = [f"{what} from column {name}" for what, name in columns.items() if name]
        if said:
            used.append(f"{table.path.relative_to(root).as_posix()}: {', '.join(said)}")
    described.sentence = _shortened(used)
    return described


def _shortened(used: Sequence[str]) -> str:
    more = f" and {len(used) - 3} more files" if len(used) > 3 else ""
    return "; ".join(used[:3]) + more


class _Names:
    """Finds images by a path that may be spelt in another Unicode form."""

    def __init__(self, images: Iterable[str]) -> None:
        self.exact = set(images)
        self.folded = {normal_form(image): image for image in self.exact}

    def find(self, path: str) -> str | None:
        return path if path in self.exact else self.folded.get(normal_form(path))


def _read(
    root: Path,
    table: Lines,
    columns: dict[str, str | None],
    names: _Names,
    described: Described,
) -> None:
    folder = table.path.parent.relative_to(root).as_posix()
    path_column = table.first(PATH) or ""
    for number, row in table.rows:
        name = row.get(path_column, "").strip().replace("\\", "/")
        if not name:
            continue
        path = os.path.normpath(f"{folder}/{name}")
        image = names.find(path)
        if image is None:
            if columns["label"]:
                where = "outside of the data folder" if path.startswith("../") else "not on disk"
                described.rejects.append(Reject(path, f"named in {table.path.name}, {where}"))
            continue
        for what, found in (
            ("label", described.labels),
            ("group", described.groups),
            ("fold", described.folds),
        ):
            value = value_of(row, columns[what])
            if what == "fold":
                value = _KNOWN_FOLDS.get(value.casefold(), "") or _fold_above(image)
            if what == "label" and columns[what] and not value:
                raise DataError(f"{table.path} row {number} has no label: fill it in")
            if value and found.setdefault(image, value) != value:
                raise DataError(
                    f"{table.path} gives {image} two {what}s, {found[image]} and {value}: keep one"
                )


def _fold_above(image: str) -> str:
    """The fold of the outermost split folder above an image; empty where there is none."""
    return next((fold for part in image.split("/")[:-1] if (fold := fold_of(part))), "")
