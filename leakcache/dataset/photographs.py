"""Photographs beside the images of generators: they are one more class, `real`."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

from leakcache.dataset.records import (
    DatasetIndex,
    ImageRecord,
    Reject,
    canonical,
    relative_to,
    scan,
)
from leakcache.dataset.split_file import cut_folds
from leakcache.errors import DataError

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
