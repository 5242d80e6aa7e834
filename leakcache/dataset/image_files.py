"""The image files that arguments of a command name: files, folders and archives."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from leakcache.dataset.archives import archives_below, find_archives, samples_of
from leakcache.dataset.folders import images_below
from leakcache.dataset.records import Reject
from leakcache.errors import DataError
from leakcache.images.archive import image_exists


def find_images(arguments: Sequence[str]) -> list[tuple[Path, str]]:
    """Files as named and every image below folders as named, in order, each with a reason.

    The reason says why something cannot be an image (it does not exist, a folder holds none);
    it is empty for all that is worth opening.

    Raises:
        DataError: nothing was found that is worth opening.
    """
    found = list_images(arguments)
    if all(reason for _, reason in found):
        path, reason = found[0]
        raise DataError(f"{path}: {reason}; name image files, or folders that hold some")
    return found


def list_images(arguments: Sequence[str]) -> list[tuple[Path, str]]:
    """As `find_images`, also where nothing is worth opening."""
    found: list[tuple[Path, str]] = []
    for argument in arguments:
        path = Path(argument)
        if path.is_dir():
            found += _below(path)
        elif archives := find_archives(path):
            found += _inside(archives)
        else:
            there = path.exists() or image_exists(path)
            found.append((path, "" if there else "no such file or folder"))
    return found


def _below(folder: Path) -> list[tuple[Path, str]]:
    images, rejects = images_below(folder)
    if not images and (archives := archives_below(folder)):
        return _inside(archives)
    if not images and not rejects:
        return [(folder, "no images in this folder")]
    found = [(folder / image, "") for image in images]
    return found + [(folder / reject.path, reject.reason) for reject in rejects]


def _inside(archives: Sequence[Path]) -> list[tuple[Path, str]]:
    return [
        (archive / sample.path, sample.reason)
        if isinstance(sample, Reject)
        else (archive / sample.name, "")
        for archive in archives
        for sample in samples_of(archive)
    ]
