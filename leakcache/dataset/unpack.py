"""Images inside Parquet files and WebDataset shards, written as files with a metadata table.

    OUT/images/NNNNNN/NNNNNNNN.png    numbered; no name from the archive becomes a path
    OUT/metadata.csv                  file_name, label, and group and fold where they are known

Labels come from a column of the table, or from the `.cls` or `.json` file of a sample.
"""

from __future__ import annotations

import csv
import json
import re
import tarfile
from collections.abc import Generator, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from leakcache.dataset.folders import IMAGE_SUFFIXES, UNPACKED, scan
from leakcache.dataset.placed import fold_of
from leakcache.dataset.table_file import (
    FOLD,
    GROUP,
    Lines,
    image_columns,
    parquet_reader,
    value_of,
)
from leakcache.errors import DataError
from leakcache.names import cell, normal_form, visible

PER_FOLDER = 1000
IMAGE_LIMIT = 2**28
"""Most bytes of one image file in an archive."""
_BATCH = 64
_SIGNATURES = (
    (b"\x89PNG", ".png"),
    (b"\xff\xd8", ".jpg"),
    (b"GIF8", ".gif"),
    (b"BM", ".bmp"),
    (b"II*\0", ".tif"),
    (b"MM\0*", ".tif"),
)


@dataclass
class Sample:
    """One image of an archive: its bytes and what is said of it, by column."""

    data: bytes
    facts: dict[str, str] = field(default_factory=dict)


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
    column = _label_column(archives, label)
    out.mkdir(parents=True, exist_ok=True)
    counts: dict[str, int] = {}
    number = skipped = 0
    with (out / "metadata.csv").open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\r\n")
        writer.writerow(("file_name", "label", "group", "fold"))
        for archive in archives:
            for sample in _samples(archive, image):
                name = value_of(sample.facts, column)
                if not sample.data or not name:
                    skipped += 1
                    continue
                path = _write(out, number, sample.data)
                group = next((sample.facts[c] for c in GROUP if sample.facts.get(c)), "")
                writer.writerow((path, cell(name), cell(group), _fold(archive, sample)))
                counts[name] = counts.get(name, 0) + 1
                number += 1
    if not number:
        raise DataError(
            f"{source}: none of {skipped} samples has both an image and a label in column "
            f"{visible(column)}: give another --label, or fetch it with its images"
        )
    return Unpacked(out, number, skipped, dict(sorted(counts.items())))


def _archives(source: Path) -> list[Path]:
    if source.is_dir():
        found = [source / name for name in sorted(scan(source).archives)]
    else:
        found = [source] if source.is_file() else []
    found = [path for path in found if path.name.lower().endswith(UNPACKED)]
    if not found:
        raise DataError(f"{source} is no Parquet file or tar archive, nor a folder that holds some")
    return found


def _label_column(archives: list[Path], given: str | None) -> str:
    """The column of labels, from the columns of the first archive."""
    first = archives[0]
    if first.suffix.lower() != ".parquet":
        with closing(_samples(first, None)) as samples:
            rows = [sample.facts for _, sample in zip(range(256), samples, strict=False)]
    else:
        with _readable(first):
            rows = _facts_alone(first)
    columns = tuple(dict.fromkeys(name for row in rows for name in row))
    lines = Lines(first, columns, tuple(enumerate(rows, start=1)))
    found = lines.label_column(given)
    if found is None and not columns:
        raise DataError(
            f"{first} has no labels beside its images: if its folders are the classes, unpack it "
            "with tar"
        )
    if found is None:
        raise DataError(
            f"{first} has no column of labels: give --label with one of "
            f"{', '.join(map(visible, columns))}"
        )
    return found


def _fold(archive: Path, sample: Sample) -> str:
    """The fold from a column, else from the file's name as in train-00000-of-00002.parquet."""
    for column in FOLD:
        if found := fold_of(sample.facts.get(column, "")):
            return found
    return fold_of(re.split(r"[-_.]\d", archive.name)[0].rpartition(".")[2]) or ""


def _write(out: Path, number: int, data: bytes) -> str:
    suffix = next((end for start, end in _SIGNATURES if data.startswith(start)), ".webp")
    path = f"images/{number // PER_FOLDER:06d}/{number:08d}{suffix}"
    (out / path).parent.mkdir(parents=True, exist_ok=True)
    (out / path).write_bytes(data)
    return path


def _samples(archive: Path, image: str | None) -> Generator[Sample]:
    with _readable(archive):
        if archive.suffix.lower() == ".parquet":
            yield from _of_parquet(archive, image)
        else:
            yield from _of_tar(archive)


@contextmanager
def _readable(archive: Path) -> Iterator[None]:
    try:
        yield
    except (OSError, ValueError, EOFError, tarfile.TarError) as error:
        if isinstance(error, DataError):
            raise
        reason = " ".join(str(error).split())
        raise DataError(f"{archive} cannot be read ({reason}): fetch it again") from error


# Parquet.


def _of_parquet(path: Path, image: str | None) -> Iterator[Sample]:
    file = parquet_reader(path).ParquetFile(path)
    column = _image_column(path, image_columns(file.schema_arrow), image)
    names = _class_names(file.schema_arrow)
    number = 0
    for batch in file.iter_batches(batch_size=_BATCH):
        for row in batch.to_pylist():
            facts = _facts(row, names)
            images = row[column] if isinstance(row[column], list) else [row[column]]
            if len(images) > 1:
                facts.setdefault("group", f"{path.name}-{number}")
            number += 1
            for value in images:
                data = value.get("bytes") if isinstance(value, dict) else value
                yield Sample(data or b"", facts)


def _image_column(path: Path, columns: list[str], given: str | None) -> str:
    if not columns:
        raise DataError(f"{path} holds no images as bytes: give it as --data if it is an index")
    if given is None and len(columns) == 1:
        return columns[0]
    found = next((name for name in columns if normal_form(name) == normal_form(given or "")), None)
    if found is None:
        raise DataError(
            f"{path} has images in the columns {', '.join(map(visible, columns))}: give --image "
            "with one of them"
        )
    return found


def _facts_alone(path: Path) -> list[dict[str, str]]:
    """All rows of a Parquet file without their images."""
    file = parquet_reader(path).ParquetFile(path)
    schema = file.schema_arrow
    plain = [f.name for f in schema if f.name not in image_columns(schema)]
    names = _class_names(schema)
    return [_facts(row, names) for row in file.read(columns=plain).to_pylist()]


def _facts(row: dict[str, Any], names: dict[str, list[str]]) -> dict[str, str]:
    facts = {}
    for key, value in row.items():
        known = names.get(key, [])
        if known and isinstance(value, int):  # -1 stands for no label
            facts[normal_form(key)] = known[value] if 0 <= value < len(known) else ""
        elif isinstance(value, (str, int, float)):
            facts[normal_form(key)] = str(value)
    return facts


def _class_names(schema: Any) -> dict[str, list[str]]:
    """Names of the classes of columns that hold their numbers, as Hugging Face stores them."""
    try:
        features = json.loads((schema.metadata or {})[b"huggingface"])["info"]["features"]
        return {
            column: [str(name) for name in feature["names"]]
            for column, feature in features.items()
            if isinstance(feature, dict) and isinstance(feature.get("names"), list)
        }
    except (KeyError, ValueError, TypeError, AttributeError, RecursionError):
        return {}


# WebDataset: the files of one sample follow each other and share their name up to the first dot.


def _of_tar(path: Path) -> Iterator[Sample]:
    key: str | None = None
    files: list[tuple[str, bytes]] = []
    with tarfile.open(path, "r|*") as archive:
        for member in archive:
            folder, _, name = member.name.rpartition("/")
            if not member.isfile() or name.startswith("."):
                continue
            stem, _, ending = name.partition(".")
            if (here := f"{folder}/{stem}") != key:
                yield from _samples_of(files, key or "")
                key, files = here, []
            suffix = _suffix(ending.lower())
            wanted = suffix in IMAGE_SUFFIXES or suffix in (".cls", ".json", ".txt")
            file = archive.extractfile(member) if wanted and member.size <= IMAGE_LIMIT else None
            if file is not None:
                files.append((f".{ending.lower()}", file.read()))
    yield from _samples_of(files, key or "")


def _samples_of(files: list[tuple[str, bytes]], key: str) -> Iterator[Sample]:
    """The samples in files of one name up to the first dot: one, or one an image.

    Of several images, as in 22.01.png and 22.02.png, each has what stands under its longer name
    and what stands under the key alone, which makes them one group.
    """
    images = [(ending, data) for ending, data in files if _suffix(ending) in IMAGE_SUFFIXES]
    if not images and files:
        images = [("", b"")]
    for ending, data in images:
        sample = Sample(data)
        beside = {"", ending.rpartition(".")[0]} if len(images) > 1 else None
        if len(images) > 1 and any("." not in other[1:] for other, _ in files):
            sample.facts["group"] = key
        for other, content in files:
            if beside is None or other.rpartition(".")[0] in beside:
                _add(_suffix(other), content, sample)
        yield sample


def _suffix(ending: str) -> str:
    return "." + ending.rpartition(".")[2]


def _add(suffix: str, data: bytes, sample: Sample) -> None:
    if suffix == ".cls":
        sample.facts["label"] = data.decode("utf-8", errors="replace").strip()
    elif suffix == ".txt":
        sample.facts["caption"] = data.decode("utf-8", errors="replace").strip()
    elif suffix == ".json":
        _add_json(data, sample)


def _add_json(data: bytes, sample: Sample) -> None:
    try:
        content = json.loads(data)
    except (ValueError, RecursionError):
        return
    if isinstance(content, dict):
        sample.facts |= _facts(content, {})
