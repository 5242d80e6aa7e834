"""Files that are whole or absent: written aside, flushed to the disk, then renamed.

Tensors go to safetensors, never to a pickle. All metadata lies under one key, because the
format does not fix the order of several, and equal content must give equal bytes.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from leakcache.errors import RunError
from leakcache.files import flush, json_text, parse_json, partial_of
from leaknet.checksums import add_checksum, one_writer, verify

_KEY = "leaknet"


def replace_file(path: Path, write: Callable[[Path], object]) -> None:
    """Let `write` fill a file beside `path`, and rename it only once it is on the disk.

    Raises:
        RunError: the disk is full or the folder cannot be written to.
    """
    partial = partial_of(path)
    try:
        with one_writer(path):
            write(partial)
            flush(partial)
            add_checksum(path, partial)
            partial.replace(path)
            flush(path.parent)
    except (OSError, SafetensorError) as error:
        raise RunError(f"{path} cannot be written: {error}") from error


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


def read_tensors(
    path: Path, undefined: Collection[str] = ()
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Tensors, on the CPU, and metadata of a file that `save_tensors` wrote.

    Args:
        path: of the file.
        undefined: names of tensors in which NaN has a meaning.

    Raises:
        RunError: the file is missing, damaged or another program's.
    """
    with _opened(path) as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        metadata = _metadata(file)
    for name, tensor in tensors.items():
        if name not in undefined and tensor.is_floating_point() and tensor.isnan().any():
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
