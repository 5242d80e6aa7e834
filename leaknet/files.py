"""Files that are whole or absent: written aside, flushed to the disk, then renamed.

Tensors go to safetensors, never to a pickle. All metadata lies under one key, because the
format does not fix the order of several, and equal content must give equal bytes.

checksums.json beside the files of a run holds the SHA-256 of each. The checksum of a new file is
added before the file is renamed, and the one before it stays, so that a kill at any moment leaves
files that agree with their checksums.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from leakcache.errors import RunError
from leakcache.files import json_text, parse_json
from leakcache.files import read_text as read_limited

_KEY = "leaknet"
TEXT_LIMIT = 2**26
"""Most bytes of a text file of a run that are read."""
CHECKSUMS = "checksums.json"
CHECKED = (
    "config.toml",
    "classes.json",
    "model.safetensors",
    "scorers.safetensors",
    "calibration.safetensors",
    "embeddings.h5",
    "history.jsonl",
    "metrics.json",
    "last.safetensors",
    "unknown.h5",
)
"""Files of a run folder that have a checksum."""


def replace_file(path: Path, write: Callable[[Path], object]) -> None:
    """Let `write` fill a file beside `path`, and rename it only once it is on the disk.

    Raises:
        RunError: the disk is full or the folder cannot be written to.
    """
    partial = partial_of(path)
    try:
        write(partial)
        flush(partial)
        if path.name in CHECKED:
            _add_checksum(path, _sha256(partial))
        partial.replace(path)
        flush(path.parent)
    except (OSError, SafetensorError) as error:
        raise RunError(f"{path} cannot be written: {error}") from error


def verify(path: Path) -> None:
    """Refuse a file of a run that has changed since it was written.

    Raises:
        RunError: its checksum, or checksums.json, does not agree.
    """
    _refuse_foreign(path)
    known = _checksums(path.parent).get(path.name)
    if known and path.is_file() and _sha256(path) not in known:
        raise RunError(
            f"{path} is damaged or was changed: its SHA-256 is not that of {CHECKSUMS}; restore "
            "it, or train again"
        )


def was_written(path: Path) -> bool:
    """Whether checksums.json knows of a file of a run, be it there or not."""
    return path.name in _checksums(path.parent)


def forget_former(folder: Path) -> None:
    """Keep the checksums of the files of a run as they are now, no longer those before."""
    found = _checksums(folder)
    for name, digests in found.items():
        if (folder / name).is_file() and (now := _sha256(folder / name)) in digests:
            found[name] = [now]
    if found:
        write_json(folder / CHECKSUMS, found)


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


def _add_checksum(path: Path, digest: str) -> None:
    found = _checksums(path.parent)
    found[path.name] = list(dict.fromkeys([*found.get(path.name, [])[-1:], digest]))
    text = json_text(dict(sorted(found.items())))
    write_text(path.parent / CHECKSUMS, text)


def _checksums(folder: Path) -> dict[str, list[str]]:
    path = folder / CHECKSUMS
    if not path.is_file():
        return {}
    try:
        _refuse_foreign(path)
        found: dict[str, list[str]] = parse_json(read_limited(path, TEXT_LIMIT))
        return {name: list(digests) for name, digests in found.items()}
    except (ValueError, AttributeError, TypeError) as error:
        raise RunError(f"{path} is damaged: restore it, or train again") from error


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def read_text(path: Path) -> str:
    """Text of a file that `write_text` wrote; raises as `verify`, ValueError and OSError."""
    verify(path)
    return read_limited(path, TEXT_LIMIT)


def partial_of(path: Path) -> Path:
    """Where `replace_file` writes first; what a kill may leave behind."""
    return path.with_name(f".{path.name}.partial")


def flush(path: Path) -> None:
    """Wait until a file's or a folder's content is on the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def write_text(path: Path, text: str) -> None:
    """Write a text file, whole or not at all."""
    replace_file(path, lambda partial: partial.write_text(text, encoding="utf-8"))


def write_json(path: Path, value: Any) -> None:
    """Write a JSON file, whole or not at all; see `json_text`."""
    write_text(path, json_text(value) + "\n")


def save_tensors(
    path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, Any] | None = None
) -> None:
    """Write named tensors and JSON-able metadata, whole or not at all."""
    # A copy in the default memory format: channels-last weights have the same bytes in it.
    ready = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    content = save(ready, {_KEY: json.dumps(metadata or {}, sort_keys=True)})
    replace_file(path, lambda partial: partial.write_bytes(content))


def read_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Tensors, on the CPU, and metadata of a file that `save_tensors` wrote.

    Raises:
        RunError: the file is missing, damaged or another program's.
    """
    with _opened(path) as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        metadata = _metadata(file)
    for name, tensor in tensors.items():
        if tensor.is_floating_point() and tensor.isnan().any():
            raise RunError(f"{path} has numbers that are not finite in {name}: train again")
    return tensors, metadata


def read_metadata(path: Path) -> dict[str, Any]:
    """Metadata alone, without the tensors; raises as `read_tensors`."""
    with _opened(path) as file:
        return _metadata(file)


def _metadata(file: Any) -> dict[str, Any]:
    found = parse_json((file.metadata() or {})[_KEY])
    if not isinstance(found, dict):
        raise ValueError("its metadata are no object")
    return found


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    verify(path)
    try:
        with safe_open(path, framework="pt") as file:
            yield file
    except FileNotFoundError:
        raise RunError(f"{path} is missing: run `leak train` again into this folder") from None
    except (SafetensorError, OSError, KeyError, ValueError, RuntimeError, MemoryError) as error:
        raise RunError(
            f"{path} is damaged or was not written by leak ({error}): train again"
        ) from error
