"""Images inside WebDataset shards and Parquet files as rows of a table, read in place.

Labels, prompts and folds come from columns: those of a Parquet file, or the `.json`, `.cls` and
`.txt` members of a sample of a tar archive. Paths are those of `leakcache.images.archive`.
"""

from __future__ import annotations

import json
import re
import tarfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import groupby, product
from pathlib import Path
from typing import Any

from leakcache.dataset.index_file import Row, Table
from leakcache.dataset.placed import fold_of
from leakcache.dataset.records import IMAGE_SUFFIXES, UNPACKED, Reject, scan
from leakcache.dataset.table_file import (
    FOLD,
    GROUP,
    LABEL,
    Lines,
    image_columns,
    parquet_reader,
    value_of,
)
from leakcache.errors import DataError
from leakcache.images.archive import (
    PARQUET,
    TAR,
    Member,
    has_end_mark,
    read_member,
    tar_members,
)
from leakcache.names import normal_form, visible

_BRACES = re.compile(r"\{([^{}]*)\}")
_MOST = 2**20
"""Names that braces may stand for."""
TEXT_LIMIT = 2**24
"""Most bytes of a member with a label, a caption or JSON that are read."""


@dataclass
class Sample:
    """One image of an archive: its name there, and what is said of it by column."""

    name: str
    facts: dict[str, str] = field(default_factory=dict)


def find_archives(root: Path) -> list[Path]:
    """The archives that a file, or a pattern such as `{0000..0099}.tar`, names; none for others.

    Raises:
        DataError: one is missing, or is compressed, so that its members cannot be read in place.
    """
    found = [root] if root.is_file() or not _BRACES.search(str(root)) else expanded(str(root))
    if not all(path.name.lower().endswith(UNPACKED) for path in found):
        return []
    missing = [path for path in found if not path.is_file()]
    if missing and len(found) > 1:
        raise DataError(
            f"{root}: {len(missing)} of {len(found)} archives are missing, {missing[0]} for one"
        )
    return [] if missing else [path for path in found if holds_images(path)]


def holds_images(path: Path) -> bool:
    """Whether a file is a tar archive, or a Parquet file with images.

    Raises:
        DataError: it is a compressed tar archive.
    """
    name = path.name.lower()
    if name.endswith(PARQUET):
        with readable(path):
            return bool(image_columns(parquet_reader(path).read_schema(path)))
    if name.endswith(UNPACKED) and not name.endswith(TAR):
        raise DataError(
            f"{path} is compressed, so its images cannot be read in place: "
            f"`leak data unpack {path} --out DIR` writes them as files"
        )
    return name.endswith(TAR)


def archives_below(root: Path) -> list[Path]:
    """The archives of images below a folder, by name; raises as `holds_images`."""
    found = [root / name for name in sorted(scan(root, enter_steps=True).archives)]
    return [path for path in found if path.name.lower().endswith(UNPACKED) and holds_images(path)]


def expanded(pattern: str) -> list[Path]:
    """All names that a pattern with braces stands for, as a shell writes them: {00..12}, {a,b}."""
    pieces = _BRACES.split(pattern)
    choices = [_choices(piece) if n % 2 else [piece] for n, piece in enumerate(pieces)]
    count = 1
    for choice in choices:
        count *= len(choice)
    if count > _MOST:
        raise DataError(f"{pattern} stands for {count:,} names: give fewer at once")
    return [Path("".join(words)) for words in product(*choices)]


def _choices(text: str) -> list[str]:
    numbers = re.fullmatch(r"(\d+)\.\.(\d+)", text)
    if not numbers:
        return text.split(",")
    first, last = numbers.groups()
    width = len(first) if first.startswith("0") else 0
    return [f"{n:0{width}d}" for n in range(int(first), min(int(last), int(first) + _MOST) + 1)]


def read_archives(
    root: Path,
    archives: Sequence[Path],
    *,
    label: str | None = None,
    group: str | None = None,
    image: str | None = None,
) -> Table:
    """The images of archives as rows, with paths relative to `root`.

    Args:
        root: folder of the archives.
        archives: that `holds_images` accepts.
        label: the column of labels where the usual one is not meant.
        group: the column of prompt groups where the usual one is not meant.
        image: the column of images, of Parquet files that have several.

    Raises:
        DataError: an archive cannot be read, or no column has labels.
    """
    given = {normal_form(name) for name in (label, group) if name}
    wanted = {*LABEL, *GROUP, *FOLD, *given}
    names: dict[str, None] = {}
    found: list[tuple[str, str | None, dict[str, str]]] = []
    rejects = []
    for archive in archives:
        place, fold = archive.relative_to(root).as_posix(), _fold_of_archive(archive)
        for sample in samples_of(archive, image):
            if isinstance(sample, Reject):
                rejects.append(Reject(f"{place}/{sample.path}".rstrip("/"), sample.reason))
                continue
            names |= dict.fromkeys(sample.facts)
            facts = {name: value for name, value in sample.facts.items() if name in wanted}
            found.append((f"{place}/{sample.name}", fold, facts))
    lines = Lines(archives[0], tuple(names), tuple((n, f) for n, (_, _, f) in enumerate(found, 1)))
    columns = _columns(lines, label, group)
    rows = []
    for path, of_archive, facts in found:
        text = value_of(facts, columns["label"])
        if not text:
            rejects.append(Reject(path, f"has no label in column {visible(columns['label'])}"))
            continue
        fold = next((fold for c in FOLD if (fold := _fold(facts.get(c, "")))), of_archive)
        rows.append(Row(path, text, value_of(facts, columns.get("group")) or path, fold))
    if not rows:
        raise DataError(
            f"{archives[0]}: none of {len(rejects)} samples has both an image and a label in "
            f"column {visible(columns['label'])}: give another --label, or fetch it with its images"
        )
    return Table(tuple(rows), tuple(rejects), columns)


def _columns(lines: Lines, label: str | None, group: str | None) -> dict[str, str]:
    found = lines.label_column(label)
    if found is None and not lines.columns:
        raise DataError(
            f"{lines.path} has no labels beside its images: if its folders are the classes, unpack "
            "it with tar"
        )
    if found is None:
        raise DataError(
            f"{lines.path} has no column of labels: give --label with one of "
            f"{', '.join(map(visible, lines.columns))}"
        )
    by = lines.group_column(group)
    return {"label": found} | ({"group": by} if by else {})


def _fold(text: str) -> str | None:
    return "open" if text.casefold() == "open" else fold_of(text)


def _fold_of_archive(archive: Path) -> str | None:
    """The fold from a file's name, as in train-00000-of-00002.parquet."""
    return fold_of(re.split(r"[-_.]\d", archive.name)[0].rpartition(".")[2])


def samples_of(archive: Path, image: str | None = None) -> Iterator[Sample | Reject]:
    """The images of an archive in order, and what cannot be used.

    Args:
        archive: a tar archive without compression, or a Parquet file.
        image: see `read_archives`.

    Raises:
        DataError: it cannot be read.
    """
    with readable(archive):
        if archive.name.lower().endswith(PARQUET):
            yield from _of_parquet(archive, image)
        else:
            yield from _of_tar(archive)


@contextmanager
def readable(archive: Path) -> Iterator[None]:
    """Report in one line what cannot be read in the body; raises DataError."""
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
    schema = file.schema_arrow
    images = image_columns(schema)
    column = _image_column(path, images, image)
    names = _class_names(schema)
    plain = [f.name for f in schema if f.name not in images]
    lists = str(schema.field(column).type).startswith("list")
    number = 0
    for batch in file.iter_batches(columns=[*plain, *([column] if lists else [])]):
        lengths = batch.column(column).value_lengths().to_pylist() if lists else []
        rows = batch.select(plain).to_pylist() if plain else [{}] * batch.num_rows
        for place, row in enumerate(rows):
            facts = _facts(row, names)
            name = f"{column}/{number:09d}"
            number += 1
            if lists and not any(name in facts for name in GROUP):
                facts["group"] = f"{path.name}-{number}"
            several = range(lengths[place] or 0) if lists else (0,)
            for one in several:
                yield Sample(f"{name}-{one}" if lists else name, facts)


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


def _of_tar(path: Path) -> Iterator[Sample | Reject]:
    for key, together in groupby(tar_members(path), _key):
        members = []
        for member in together:
            if _suffix(member) not in (*IMAGE_SUFFIXES, *_FACTS):
                continue
            if member.problem:
                yield Reject(visible(member.name), member.problem)
            elif not member.name.rpartition("/")[2].startswith("."):
                members.append(member)
        yield from _samples_of(path, members, key)
    if not has_end_mark(path):
        yield Reject("", "has no end mark: it may be cut off")


def _key(member: Member) -> str:
    folder, _, name = member.name.rpartition("/")
    return f"{folder}/{name.partition('.')[0]}"


def _suffix(member: Member) -> str:
    return "." + member.name.rpartition(".")[2].lower()


def _stem(member: Member) -> str:
    """The name without its suffix."""
    return member.name.rpartition(".")[0]


def _samples_of(archive: Path, members: Sequence[Member], key: str) -> Iterator[Sample | Reject]:
    """The samples in files of one name up to the first dot: one, or one an image.

    Of several images, as in 22.01.png and 22.02.png, each has what stands under its longer name
    and what stands under the key alone, which makes them one group.
    """
    images = [member for member in members if _suffix(member) in IMAGE_SUFFIXES]
    others = [member for member in members if _suffix(member) in _FACTS]
    alone = [other for other in others if _stem(other).endswith(key.removeprefix("/"))]
    if others and not images:
        yield Reject(key, "has no image")
    for image in images:
        beside = [other for other in others if _stem(other) == _stem(image)]
        facts = _said(archive, others if len(images) == 1 else (*alone, *beside))
        if len(images) > 1 and alone and not any(name in facts for name in GROUP):
            facts["group"] = key
        yield Sample(image.name, facts)


def _said(archive: Path, members: Iterable[Member]) -> dict[str, str]:
    facts: dict[str, str] = {}
    for member in members:
        if member.size > TEXT_LIMIT:
            continue
        text = read_member(archive, member).decode("utf-8", errors="replace")
        if (column := _FACTS[_suffix(member)]) is not None:
            facts[column] = text.strip()
            continue
        try:
            content = json.loads(text)
        except (ValueError, RecursionError):
            continue
        if isinstance(content, dict):
            facts |= _facts(content, {})
    return facts


_FACTS = {".cls": "label", ".txt": "caption", ".json": None}
"""Column of a member's text; None for an object with columns of its own."""
