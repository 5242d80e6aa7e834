"""An index as a file that its owner may edit: it is never overwritten once it was edited."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

from leakcache.dataset.records import DatasetIndex
from leakcache.errors import DataError


def default_name(root: Path) -> str:
    """A file name for the index of `root`; roots of one name have different ones."""
    source = hashlib.sha256(os.fsencode(root.resolve())).hexdigest()[:6]
    return f"{root.name or 'root'}-{source}.index.csv"


def save_index(index: DatasetIndex, path: Path) -> bool:
    """Write the index as CSV, unless the file there was edited; whether it was written.

    A hidden file beside it holds the hash of what was written last.

    Raises:
        DataError: it cannot be written.
    """
    folder = Path(os.path.normpath(path.absolute().parent))
    data = index.as_csv(folder).encode("utf-8")
    seal = path.with_name(f".{path.name}.sha256")
    try:
        if path.exists() and not _is_ours(path.read_bytes(), data, seal):
            return False
        folder.mkdir(parents=True, exist_ok=True)
        for file, content in ((path, data), (seal, _seal(data, path).encode("utf-8"))):
            partial = file.with_name(f".{file.name}.{os.getpid()}.partial")
            partial.write_bytes(content)
            partial.replace(file)
    except OSError as error:
        raise DataError(
            f"{path} cannot be written ({error.strerror}): choose another file with --out"
        ) from error
    return True


def _is_ours(there: bytes, new: bytes, seal: Path) -> bool:
    if there == new:
        return True
    written = seal.read_text("utf-8", errors="replace") if seal.is_file() else ""
    return written.split(" ")[0] == hashlib.sha256(there).hexdigest()


def _seal(data: bytes, path: Path) -> str:
    return f"{hashlib.sha256(data).hexdigest()}  {path.name}\n"
