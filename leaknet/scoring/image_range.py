"""Size and compression of images, and the range of them that a run is calibrated on.

range.json of a run holds those of its validation images. An answer *outside the calibrated range*
says with it what is unlike them.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from leakcache.errors import ImageError, RunError
from leakcache.files import parse_json
from leakcache.images.archive import read_image
from leakcache.store.cache import Cache
from leaknet.checksums import is_there, read_text, was_written
from leaknet.files import write_json
from leaknet.scoring.image_facts import ImageFacts, ImageRange, header

FILE = "range.json"
MOST_READ = 500
"""Validation images whose headers are read at most, evenly spaced."""


def write_range(run: Path, images: Sequence[ImageFacts], former: ImageRange | None = None) -> None:
    """Write the range of a run, `former` included; nothing without images."""
    if (found := ImageRange.of(images)) is not None:
        write_json(run / FILE, vars(found.joined(former)))


def read_range(run: Path) -> ImageRange | None:
    """The range of a run; None for a run that has none.

    Raises:
        RunError: the file is damaged, or gone.
    """
    path = run / FILE
    if not is_there(path):
        if was_written(path):
            raise RunError(f"{path} is missing: restore it, or train again")
        return None
    try:
        content = {key: tuple(value) for key, value in parse_json(read_text(path)).items()}
        formats = tuple(map(str, content.pop("formats")))
        ends = {key: (int(low), int(high)) for key, (low, high) in content.items()}
        return ImageRange(formats=formats, **ends)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        if isinstance(error, RunError):
            raise
        raise RunError(f"{path} is damaged ({error}): restore it, or train again") from error


def facts_of_cache(cache: Cache, fold: str = "val") -> list[ImageFacts]:
    """Facts of the image files of a fold, from their headers; those that are gone are left out."""
    rows, root = cache.rows(fold), Path(cache.manifest.data)
    if len(rows) > MOST_READ:
        rows = rows[np.linspace(0, len(rows) - 1, MOST_READ).astype(np.int64)]
    found = []
    for path in cache.paths[rows].tolist():
        try:
            sides, form, level = header(read_image(root / path))
        except (OSError, ImageError):
            continue
        found.append(ImageFacts(sides=sides, format=form, quality=level))
    return found
