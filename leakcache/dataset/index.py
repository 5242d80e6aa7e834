"""Which images there are: one reader for folders of classes, WILD, CSV and Parquet files.

The types live in `leakcache.dataset.records` and may be imported from here.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path, PurePosixPath

from leakcache.dataset.folders import EXPECTED, ClassFolder, find_layout, step_of
from leakcache.dataset.grouped_split import cut_folds
from leakcache.dataset.index_file import SUFFIXES, read_table
from leakcache.dataset.records import FOLDS, DatasetIndex, ImageRecord, Reject, Split, canonical
from leakcache.dataset.split_file import assign, find_split
from leakcache.errors import DataError

__all__ = ["FOLDS", "DatasetIndex", "ImageRecord", "Reject", "Split", "read_index"]

_STEM_GROUPS = "images of one file stem are one prompt group, in every class"


def read_index(root: Path, *, seed: int = 0, open_set: bool = False) -> DatasetIndex:
    """Index the images at `root`: class folders, WILD as it comes, or a CSV or Parquet file.

    Folds come from the table's column or from Split.json; without either they are cut by
    group, half training, a fifth validation and three tenths test, seeded and stratified.
    Folders step1 to step3 (post-processed copies) are left out; `root/step1` reads them,
    also where the copies lie inside the sets or classes. With `open_set` every image is
    open: those of WILD's Open_Set or a table's open rows where there are any, else all, and
    a flat folder of images is one class named after the folder.

    Raises DataError where nothing can be read as classes of images.
    """
    root = Path(os.path.normpath(root.expanduser().absolute()))
    if root.is_dir():
        return _read_folder(root, None, seed, open_set)
    if root.is_file():
        if root.suffix.lower() not in SUFFIXES:
            raise DataError(
                f"{root} is neither a folder nor a CSV or Parquet file: --data takes {EXPECTED}"
            )
        return _read_table(root, seed, open_set)
    step = step_of(root.name)
    if step and root.parent.is_dir():
        return _read_folder(root.parent, step, seed, open_set)
    raise DataError(f"{root} does not exist: --data takes {EXPECTED}")


def _read_folder(root: Path, step: str | None, seed: int, open_set: bool) -> DatasetIndex:
    layout = find_layout(root, step=step, open_only=open_set)
    records = [
        ImageRecord(image, c.label, PurePosixPath(image).stem, "open" if c.is_open else "")
        for c in layout.classes
        for image in c.images
    ]
    split = find_split(root) if any(not record.fold for record in records) else None
    if split is None:
        records, how = _cut(records, seed)
    else:
        records, rejects = _follow(split, layout.classes, records)
        layout.rejects += rejects
        how = [f"folds from {split.name}"]
    return _index(root, records, layout.rejects, [layout.sentence(), *how, _STEM_GROUPS])


def _follow(
    split: Path, classes: list[ClassFolder], records: list[ImageRecord]
) -> tuple[list[ImageRecord], list[Reject]]:
    """Give the closed records the split's folds; those it does not name become rejects."""
    given = assign(split, classes)
    folds = given.folds | {record.path: "open" for record in records if record.fold}
    unnamed = [r.path for r in records if r.path not in folds]
    rejects = given.rejects + [Reject(path, f"not named in {split.name}") for path in unnamed]
    return [replace(r, fold=folds[r.path]) for r in records if r.path in folds], rejects


def _read_table(path: Path, seed: int, open_set: bool) -> DatasetIndex:
    table = read_table(path)
    rows = table.rows
    if open_set:
        opened = [row for row in rows if row.fold == "open"] or rows
        rows = tuple(replace(row, fold="open") for row in opened)
    records = [ImageRecord(row.path, row.label, row.group, row.fold or "") for row in rows]
    _refuse_both(path, records)
    how = ["folds from its fold column"]
    if any(not record.fold for record in records):
        records, how = _cut(records, seed)
    groups = "groups from its group column" if "group" in table.columns else _STEM_GROUPS
    return _index(path.parent, records, table.rejects, [f"index file {path.name}", *how, groups])


def _refuse_both(table: Path, records: Iterable[ImageRecord]) -> None:
    records = list(records)
    known = {record.label for record in records if record.fold != "open"}
    both = sorted(known & {record.label for record in records if record.fold == "open"})
    if both:
        raise DataError(
            f"{table} has open and known images of {both[0]}: a class is one or the other"
        )


def _cut(records: list[ImageRecord], seed: int) -> tuple[list[ImageRecord], list[str]]:
    """Give a fold to the records that have none, by group; with the words for the layout."""
    closed = [(record.group, record.label) for record in records if not record.fold]
    if not closed:
        return records, []
    folds = cut_folds(closed, seed)
    cut = [
        record if record.fold else replace(record, fold=folds[record.group]) for record in records
    ]
    return cut, [f"folds cut by group 50/20/30 with seed {seed}"]


def _index(
    root: Path, records: list[ImageRecord], rejects: Iterable[Reject], words: list[str]
) -> DatasetIndex:
    ordered = tuple(sorted(set(rejects), key=lambda reject: (reject.path, reject.reason)))
    index = DatasetIndex(root, canonical(records), ordered, "; ".join(words))
    if not index.crossing_groups:
        return index
    note = f"{len(index.crossing_groups)} groups have images in several folds, as it says"
    return replace(index, layout=f"{index.layout}; {note}")
