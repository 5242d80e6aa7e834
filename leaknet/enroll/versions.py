"""Versions of a run: RUN@2, RUN@3, ... beside RUN, each a complete run folder.

RUN does not change. A version contains the files of any run and enrolment.json, which records
the enrolled generator, its images and the run that the version was made from.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from leakcache.errors import RunError
from leakcache.files import locked, parse_json
from leaknet.checksums import read_text, was_written
from leaknet.files import write_json

FILE = "enrolment.json"
_NUMBERED = re.compile(r"(?P<stem>.+)@(?P<number>\d+)")


def next_version(run: Path) -> Path:
    """Folder of the next version of a run; for a version, of the run it belongs to."""
    base = _base(run)
    return base.with_name(f"{base.name}@{max(_versions(base), default=1) + 1}")


def write_version(folder: Path, fill: Callable[[Path], object], content: dict[str, Any]) -> None:
    """Write a version, complete or not at all.

    Args:
        folder: from `next_version`.
        fill: writes the run's files into an empty folder.
        content: of enrolment.json.

    Raises:
        RunError: it cannot be written.
        CacheError: another process writes a version.
    """
    partial = folder.with_name(f".{folder.name}.partial")
    try:
        with locked(folder.parent):
            if folder.exists():
                raise RunError(f"{folder} was written by another process: run the command again")
            shutil.rmtree(partial, ignore_errors=True)
            partial.mkdir()
            fill(partial)
            write_json(partial / FILE, content)
            partial.rename(folder)
    except OSError as error:
        raise RunError(f"{folder} cannot be written: {error.strerror or error}") from error


def undo(run: Path) -> tuple[Path, Path]:
    """Remove a version: `run` itself if it is one, else its newest version.

    Returns:
        The removed folder, and the run that the version was made from.

    Raises:
        RunError: the run has no version, or the folder cannot be removed.
    """
    target = run if (run / FILE).is_file() else None
    if target is None and (numbers := _versions(run)):
        target = run.with_name(f"{run.name}@{max(numbers)}")
    if target is None:
        if was_written(run / FILE):
            raise RunError(f"{run / FILE} is missing: restore it, or delete the folder by hand")
        raise RunError(f"{run} has no enrolled generator to undo")
    origin = target.with_name(read_enrolment(target)["from"])
    removed = target.with_name(f".{target.name}.removed")
    try:
        target.rename(removed)
        shutil.rmtree(removed)
    except OSError as error:
        raise RunError(f"{target} cannot be removed: {error.strerror or error}") from error
    return target, origin


def read_enrolment(folder: Path) -> dict[str, Any]:
    """Content of a version's enrolment.json; raises RunError if it cannot be read."""
    try:
        content: dict[str, Any] = parse_json(read_text(folder / FILE))
        folder.with_name(content["from"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise RunError(
            f"{folder / FILE} cannot be read ({error!r}): delete the folder by hand"
        ) from error
    return content


def _base(run: Path) -> Path:
    match = _NUMBERED.fullmatch(run.name)
    return run.with_name(match["stem"]) if match and (run / FILE).is_file() else run


def _versions(base: Path) -> list[int]:
    """Numbers of the versions of a run, unordered."""
    folders = (path for path in base.parent.glob("*@*") if (path / FILE).is_file())
    matches = (_NUMBERED.fullmatch(path.name) for path in folders)
    return [int(m["number"]) for m in matches if m and m["stem"] == base.name]
