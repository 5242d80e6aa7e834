"""Images inside Parquet files and WebDataset shards, written as files with a metadata table.

OUT/images/NNNNNN/NNNNNNNN.png    numbered; no name from the archive becomes a path
OUT/metadata.csv                  file_name, label, and group and fold where they are known
"""

from __future__ import annotations

import bz2
import csv
import gzip
import lzma
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from leakcache.dataset.archives import read_archives, readable
from leakcache.dataset.folders import UNPACKED, scan
from leakcache.errors import DataError
from leakcache.images.archive import PARQUET, TAR, read_image
from leakcache.names import cell

PER_FOLDER = 1000
_PLAIN = ".decompressed"
_SIGNATURES = (
    (b"\x89PNG", ".png"),
    (b"\xff\xd8", ".jpg"),
    (b"GIF8", ".gif"),
    (b"BM", ".bmp"),
    (b"II*\0", ".tif"),
    (b"MM\0*", ".tif"),
)
_COMPRESSED: tuple[tuple[bytes, Callable[..., IO[Any]]], ...] = (
    (b"\x1f\x8b", gzip.open),
    (b"BZh", bz2.open),
    (b"\xfd7zXZ", lzma.open),
)


@dataclass(frozen=True)
class Unpacked:
    """What was written: images, those without an image or label, and how often each label."""

    folder: Path
    images: int
    skipped: int
    labels: dict[str, int]


def unpack(
    source: Path, out: Path, *, label: str | None = None, image: str | None = None
) -> Unpacked:
    """Write the images of an archive, or of all archives below a folder, as files.

    Args:
        source: a Parquet file, a tar archive, or a folder of those.
        out: a new or empty folder.
        label: the column of labels where the usual one is not meant.
        image: the column of images, of Parquet files that have several.

    Raises:
        DataError: there is nothing to unpack, `out` is not empty, or no labels are found.
    """
    archives = _archives(source)
    if out.exists() and any(out.iterdir()):
        raise DataError(f"{out} is not empty: give a new folder with --out")
    with _decompressed(archives, out) as plain:
        root = Path(plain[0].anchor) if len({p.anchor for p in plain}) == 1 else Path()
        table = read_archives(root, plain, label=label, image=image)
        skipped, counts = len(table.rejects), dict[str, int]()
        out.mkdir(parents=True, exist_ok=True)
        with (out / "metadata.csv").open("w", encoding="utf-8", newline="") as file:
            writer = csv.writer(file, lineterminator="\r\n")
            writer.writerow(("file_name", "label", "group", "fold"))
            for row in table.rows:
                try:
                    data = read_image(root / row.path)
                except OSError:
                    skipped += 1
                    continue
                path = _write(out, sum(counts.values()), data)
                group = row.group if "group" in table.columns and row.group != row.path else ""
                writer.writerow((path, cell(row.label), cell(group), row.fold or ""))
                counts[row.label] = counts.get(row.label, 0) + 1
    return Unpacked(out, sum(counts.values()), skipped, dict(sorted(counts.items())))


def _archives(source: Path) -> list[Path]:
    if source.is_dir():
        found = [source / name for name in sorted(scan(source).archives)]
    else:
        found = [source] if source.is_file() else []
    found = [path for path in found if path.name.lower().endswith(UNPACKED)]
    if not found:
        raise DataError(f"{source} is no Parquet file or tar archive, nor a folder that holds some")
    return [path.absolute() for path in found]


@contextmanager
def _decompressed(archives: Sequence[Path], out: Path) -> Iterator[list[Path]]:
    """The archives, compressed ones as plain copies that are there while the body runs."""
    folder = out.absolute() / _PLAIN
    try:
        yield [_plain(path, folder / str(place)) for place, path in enumerate(archives)]
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _plain(path: Path, folder: Path) -> Path:
    with readable(path), path.open("rb") as file:
        start = file.read(8)
    opened = next((how for magic, how in _COMPRESSED if start.startswith(magic)), None)
    if path.name.lower().endswith(PARQUET) or (opened is None and path.name.lower().endswith(TAR)):
        return path
    folder.mkdir(parents=True)
    target = folder / f"{path.name}.tar"
    with (
        readable(path),
        opened(path) if opened else path.open("rb") as file,
        target.open("wb") as copy,
    ):
        shutil.copyfileobj(file, copy)
    return target


def _write(out: Path, number: int, data: bytes) -> str:
    suffix = next((end for start, end in _SIGNATURES if data.startswith(start)), ".webp")
    path = f"images/{number // PER_FOLDER:06d}/{number:08d}{suffix}"
    (out / path).parent.mkdir(parents=True, exist_ok=True)
    (out / path).write_bytes(data)
    return path
