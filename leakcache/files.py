"""Files that are whole or absent, JSON without NaN, and a lock against a second writer.

What is read may be damaged or made to harm: only regular files up to a size are read, and what is
nested too deep is an error like any other.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import stat
import tomllib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from leakcache.errors import CacheBusy

TEXT_LIMIT = 2**28
"""Most bytes of a JSON or TOML file that are read: a manifest of a million images."""


def read_text(path: Path, limit: int = TEXT_LIMIT) -> str:
    """Text of a regular file.

    Raises:
        ValueError: it is not UTF-8.
        OSError: it cannot be read, is no regular file, or has more than `limit` bytes.
    """
    return read_bytes(path, limit).decode("utf-8")


def read_bytes(path: Path, limit: int) -> bytes:
    """Content of a regular file; raises as `read_text`."""
    found = path.stat()
    if not stat.S_ISREG(found.st_mode):
        raise OSError(errno.EINVAL, "it is no regular file", str(path))
    if found.st_size > limit:
        raise OSError(errno.EFBIG, f"it has more than {limit:,} bytes", str(path))
    return path.read_bytes()


def parse_json(text: str) -> Any:
    """The value of JSON text; raises ValueError, also where it is nested too deep."""
    try:
        return json.loads(text)
    except RecursionError as error:
        raise ValueError("it is nested too deep") from error


def parse_toml(text: str) -> dict[str, Any]:
    """The table of TOML text; raises ValueError, also where it is nested too deep."""
    try:
        return tomllib.loads(text)
    except RecursionError as error:
        raise ValueError("it is nested too deep") from error


def replace_file(path: Path, write: Callable[[Path], object], partial: Path | None = None) -> None:
    """Let `write` fill a file beside `path`, and rename it once it is on the disk.

    Args:
        path: file to write.
        write: fills the file that it is given.
        partial: where to write first, on the same disk; for files that several processes write.
    """
    partial = partial or partial_of(path)
    write(partial)
    flush(partial)
    partial.replace(path)
    flush(path.parent)


def partial_of(path: Path) -> Path:
    """Where `replace_file` writes first; a kill may leave this file behind."""
    return path.with_name(f".{path.name}.partial")


def flush(path: Path) -> None:
    """Wait until the content of a file or folder is on the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def write_text(path: Path, text: str, partial: Path | None = None) -> None:
    """Write a text file, whole or not at all; see `replace_file`."""
    replace_file(path, lambda file: file.write_text(text, encoding="utf-8"), partial)


def write_json(path: Path, content: Any) -> None:
    """Write a JSON file, whole or not at all."""
    write_text(path, json_text(content) + "\n")


def json_text(content: Any) -> str:
    """JSON text; numbers that are not finite become null, arrays lists, other objects text."""
    return json.dumps(_plain(content), indent=1, ensure_ascii=False, allow_nan=False)


def json_line(content: Any) -> str:
    """JSON text as `json_text`, on one line."""
    return json.dumps(_plain(content), ensure_ascii=False, allow_nan=False)


def _plain(value: Any) -> Any:
    """The value as JSON knows it; see `json_text`."""
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if isinstance(value, float) and not abs(value) < float("inf"):
        return None
    if hasattr(value, "tolist"):
        return _plain(value.tolist())
    return value if isinstance(value, (str, int, float, bool, type(None))) else str(value)


def write_checked(path: Path, content: dict[str, Any], partial: Path | None = None) -> None:
    """Write JSON together with its SHA-256, whole or not at all; see `replace_file`."""
    write_text(path, with_checksum(json_text(content)), partial)


def read_checked(path: Path) -> dict[str, Any]:
    """Content that `write_checked` wrote.

    Raises:
        ValueError: the file differs from what was written.
    """
    text = read_text(path)
    body = text.partition("\n")[2].removesuffix("}\n")
    if text != with_checksum(body):
        raise ValueError("its checksum does not match")
    content = parse_json(body)
    if not isinstance(content, dict):
        raise ValueError("it is no table")
    return content


def with_checksum(text: str) -> str:
    """JSON text with its SHA-256, as `write_checked` writes it."""
    digest = hashlib.sha256(text.encode()).hexdigest()
    return f'{{"sha256": "{digest}", "content":\n{text}}}\n'


@contextmanager
def locked(folder: Path, wait: float = 0.0) -> Iterator[None]:
    """Refuse other writers of this folder while the body runs.

    Args:
        folder: to write to.
        wait: seconds to wait for another writer; negative for no limit.

    Raises:
        CacheBusy: another process writes there.
        OSError: the folder cannot be written to.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with FileLock(folder / ".lock", timeout=wait):
            yield
    except Timeout as error:
        raise CacheBusy(
            f"{folder}: another process is writing here; wait for it or stop it"
        ) from error
