"""What was done to every degraded copy, as JSON lines, and the index that follows from it."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from leakcache.dataset.records import DatasetIndex, ImageRecord, canonical
from leakcache.errors import DataError

FILE = "degradations.jsonl"


@dataclass(frozen=True)
class Copy:
    """One copy: `path` below the step's folder, the original's path and hash, what was done."""

    path: str
    source: str
    sha256: str
    label: str
    group: str
    fold: str
    operations: list[dict[str, Any]]


def read_copies(manifest: Path, header: Mapping[str, str | int]) -> dict[str, Copy]:
    """The copies that a manifest lists, by path; none where there is no manifest.

    A line that a kill cut short is passed over: its copy is made again.

    Raises:
        DataError: the manifest's header is another one.
    """
    if not manifest.is_file():
        return {}
    rows = [row for line in _lines(manifest) if (row := _parsed(line))]
    if not rows or rows[0] != header:
        told = json.dumps(rows[0] if rows else {})
        raise DataError(
            f"{manifest} is of copies drawn otherwise ({told}, now {json.dumps(header)}): give "
            "another --out, or remove that folder"
        )
    return {copy.path: copy for copy in (Copy(**row) for row in rows[1:])}


def _lines(manifest: Path) -> list[str]:
    # Not splitlines, which also parts at characters that a file's name may hold.
    return manifest.read_text("utf-8", errors="replace").split("\n")


def _parsed(line: str) -> dict[str, Any]:
    try:
        row = json.loads(line)
    except ValueError:
        return {}
    return row if isinstance(row, dict) else {}


def write_manifest(manifest: Path, header: Mapping[str, str | int], copies: Iterable[Copy]) -> None:
    """Write the manifest of these copies, whole or not at all."""
    _replace(manifest, line(header) + "".join(line(asdict(copy)) for copy in copies))


def _replace(path: Path, text: str) -> None:
    partial = path.with_name(path.name + ".partial")
    with partial.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    partial.replace(path)


def line(row: Mapping[str, Any]) -> str:
    """One line of a manifest."""
    return json.dumps(row, ensure_ascii=False) + "\n"


def write_index(folder: Path, copies: Iterable[Copy | ImageRecord]) -> None:
    """Write index.csv and, where an image is of a known class, Split.json into the folder."""
    records = canonical({ImageRecord(c.path, c.label, c.group, c.fold) for c in copies})
    DatasetIndex(Path(os.path.normpath(folder.absolute())), records, (), "").write_csv(
        folder / "index.csv"
    )
    split: dict[str, dict[str, list[str]]] = {}
    for record in records:
        if record.fold != "open":
            name = record.path.split("/", 2)[2]
            split.setdefault(record.fold, {}).setdefault(record.label, []).append(name)
    if split:
        _replace(folder / "Split.json", json.dumps(split, indent=1, ensure_ascii=False))
