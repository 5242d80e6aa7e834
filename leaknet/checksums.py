"""checksums.json beside the files of a run, evaluation, audit or bench: the SHA-256 of each.

Nothing here loads torch.

The checksum of a new file is added before the file is renamed into place, and the one before it
stays, so that a kill at any moment leaves files that agree with their checksums.
"""

from __future__ import annotations

import hashlib
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

from filelock import FileLock

from leakcache.errors import RunError
from leakcache.files import parse_json, write_json
from leakcache.files import read_text as read_limited

TEXT_LIMIT = 2**26
"""Most bytes of a text file of a run that are read."""
CHECKSUMS = "checksums.json"
LOCK = ".checksums.lock"
CHECKED = (
    "config.toml",
    "classes.json",
    "model.safetensors",
    "scorers.safetensors",
    "calibration.safetensors",
    "held_out.safetensors",
    "relations.safetensors",
    "embeddings.h5",
    "history.jsonl",
    "metrics.json",
    "scores.csv",
    "last.safetensors",
    "unknown.h5",
    "enrolment.json",
    "range.json",
)
"""Files of a run folder that have a checksum; so have all with a suffix of `_SUFFIXES`."""
_SUFFIXES = (".h5", ".json", ".parquet", ".safetensors")
_SCORED = ("metrics.json", "scores.csv", "unknown.h5")
_CURES = dict.fromkeys(_SCORED, "delete it and run `leak score` again")
_OTHER = "delete it and run the command again that wrote it"


def verify(path: Path) -> None:
    """Refuse a file of a run that has changed since it was written.

    Raises:
        RunError: its checksum, or checksums.json, does not agree.
    """
    _refuse_foreign(path)
    known = _checksums(path.parent).get(path.name)
    if known and path.is_file() and _sha256(path) not in known:
        train = path.name in CHECKED or path.suffix == ".h5"
        cure = _CURES.get(path.name, "restore it, or train again" if train else _OTHER)
        raise RunError(
            f"{path} is damaged or was changed: its SHA-256 is not that of {CHECKSUMS}; {cure}"
        )


def is_there(path: Path) -> bool:
    """Whether a run has a file; raises RunError for a foreign link and for no regular file."""
    _refuse_foreign(path)
    return path.is_file()


def was_written(path: Path) -> bool:
    """Whether checksums.json knows of a file of a run, be it there or not."""
    return path.name in _checksums(path.parent)


def read_text(path: Path) -> str:
    """Text of a file of a run; raises as `verify`, ValueError and OSError."""
    verify(path)
    return read_limited(path, TEXT_LIMIT)


def one_writer(path: Path) -> AbstractContextManager[object]:
    """Wait until no other process replaces a file beside `path`, where these have checksums."""
    return FileLock(path.parent / LOCK) if _has_checksum(path) else nullcontext()


def add_checksum(path: Path, written: Path) -> None:
    """Add the checksum of `written`, which is about to be renamed to `path`."""
    if _has_checksum(path):
        found = _checksums(path.parent)
        digests = [*found.get(path.name, [])[-1:], _sha256(written)]
        found[path.name] = list(dict.fromkeys(digests))
        write_json(path.parent / CHECKSUMS, dict(sorted(found.items())))


def forget_former(folder: Path) -> None:
    """Keep the checksums of the files of a run as they are now, no longer those before."""
    found = _checksums(folder)
    for name, digests in found.items():
        if (folder / name).is_file() and (now := _sha256(folder / name)) in digests:
            found[name] = [now]
    if found:
        write_json(folder / CHECKSUMS, found)


def _has_checksum(path: Path) -> bool:
    return path.name in CHECKED or path.suffix in _SUFFIXES


def _refuse_foreign(path: Path) -> None:
    """Refuse a link out of the run folder, and what is no regular file.

    A snapshot of the hub links to the files of its repository.
    """
    folder = path.parent.resolve()
    home = folder.parent.parent if folder.parent.name == "snapshots" else folder
    if path.is_symlink() and not path.resolve().is_relative_to(home):
        raise RunError(f"{path} is a link out of its folder: put the file itself there")
    if path.exists() and not path.is_file():
        raise RunError(f"{path} is no regular file: restore it, or train again")


def _checksums(folder: Path) -> dict[str, list[str]]:
    path = folder / CHECKSUMS
    _refuse_foreign(path)
    if not path.is_file():
        return {}
    try:
        found: dict[str, list[str]] = parse_json(read_limited(path, TEXT_LIMIT))
        return {name: list(digests) for name, digests in found.items()}
    except (ValueError, AttributeError, TypeError) as error:
        raise RunError(f"{path} is damaged: restore it, or train again") from error


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
