"""Image files that a command names: files, folders, archives and URLs; archives unpacked."""

from __future__ import annotations

import bz2
import csv
import gzip
import lzma
import re
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from leakcache.dataset.archives import (
    archives_below,
    expanded,
    find_archives,
    read_archives,
    readable,
    samples_of,
)
from leakcache.dataset.records import IMAGE_SUFFIXES, UNPACKED, Reject, images_below, scan
from leakcache.dataset.table_file import SUFFIXES
from leakcache.errors import CacheError, DataError
from leakcache.images.archive import PARQUET, TAR, image_exists, read_image
from leakcache.names import cell
from leakcache.progress import track
from leakcache.store.remote import Mirror, is_url, local_path, mirror_name


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


_FILES = (*UNPACKED, *SUFFIXES, *IMAGE_SUFFIXES)
_INSIDE = re.compile(r"(?!.*(^|/)\.\.?(/|$))[^/].*[^/]")


def local_images(text: str, caches: Path = Path("caches")) -> Path:
    """The path that a text names: of a URL that of its copy below the folder of caches.

    Raises:
        CacheError, ConfigError: as `copy_images` and `local_path`.
    """
    if is_url(text):
        return copy_images(text, caches / f"images-{mirror_name(text)}")
    return Path(local_path(text))


def copy_images(url: str, folder: Path) -> Path:
    """Copy images, archives or tables to a local folder; what is there and unchanged stays.

    Args:
        url: of a folder, a file, or several as in `s3://bucket/shards/{0000..0099}.tar`.
        folder: for this URL alone.

    Returns:
        The local folder, file or pattern.

    Raises:
        CacheError: there is nothing, or the store cannot be reached or refuses; says why.
        ConfigError: obstore is not installed, or the URL is malformed.
    """
    base, wanted = _split(url.rstrip("/"))
    mirror = Mirror.found(folder, base) or Mirror(folder, base, {})
    if wanted and "{" not in wanted:
        found = mirror.objects.head(wanted)
    else:
        names = {str(path) for path in expanded(wanted)} if wanted else set()
        found = mirror.listed("", _INSIDE)
        found = {key: one for key, one in found.items() if not names or key in names}
    if not found:
        raise CacheError(f"{url}: there are no objects: check the URL")
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with track("copying", len(found), "objects") as advance:
            mirror.update(found, list(found), advance)
    finally:
        mirror.save()
    return folder / wanted


def _split(url: str) -> tuple[str, str]:
    """URL of a folder, and the file or pattern of files in it; empty for the folder itself."""
    scheme, _, rest = url.partition("://")
    parts = rest.split("/")
    braces = [n for n, part in enumerate(parts) if "{" in part]
    is_file = parts[-1].lower().endswith(_FILES) and len(parts) > 1
    place = braces[0] if braces else len(parts) - is_file
    return f"{scheme}://{'/'.join(parts[:place])}", "/".join(parts[place:])
