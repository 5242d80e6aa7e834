"""The index of a data set as values, and what lies in a folder, without a stat per file."""

from __future__ import annotations

import csv
import io
import os
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Literal

from leakcache.errors import DataError
from leakcache.names import cell, visible

FOLDS = ("train", "val", "test", "open")

Split = Literal["closed", "open", "all"]
"""Known generators, unknown ones, or both."""
CUT_FOLDS = FOLDS[:3]
FOLD_NAMES: Mapping[str, str] = {
    "train": "train",
    "training": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "dev": "val",
    "test": "test",
    "testing": "test",
}

COLUMNS = ("path", "label", "group", "fold")

_FOLD_ORDER = {fold: place for place, fold in enumerate(FOLDS)}


@dataclass(frozen=True)
class ImageRecord:
    """One image: where it lies, which generator made it, and where it may be used.

    `path` is relative to the index's root with POSIX separators (absolute only where a CSV
    or Parquet file points outside its own folder); `group` is the prompt group: images that
    share it are never parted by a cut of ours; `fold` is one of `FOLDS`, where "open" marks
    generators that are never trained on.
    """

    path: str
    label: str
    group: str
    fold: str


@dataclass(frozen=True)
class Reject:
    """A file, folder or split entry that was left out, and why."""

    path: str
    reason: str


@dataclass(frozen=True)
class Finding:
    """Something about a data set that its owner should know.

    An "error" refuses the data set, a "warning" may spoil what is measured on it, a "note" says
    what was done.
    """

    level: Literal["error", "warning", "note"]
    sentence: str


@dataclass(frozen=True)
class DatasetIndex:
    """Which images there are. `records` are sorted by (fold, label, path); paths are unique.

    `rejects` lists images that cannot be used: unreadable folders and links, images without a
    class, names in a split that are not on disk. Other files are passed over. `layout` says in
    one sentence how the root was understood, `findings` what was noticed on the way.
    `cut_seed` is the seed of the fold cut, None where the folds were given. `source` is the folder
    or table that was read, None for the root, and `reading` the options of `read_index` for it.
    """

    root: Path
    records: tuple[ImageRecord, ...]
    rejects: tuple[Reject, ...]
    layout: str
    findings: tuple[Finding, ...] = ()
    cut_seed: int | None = None
    source: Path | None = None
    reading: Mapping[str, str | int] = field(default_factory=dict)

    @cached_property
    def classes(self) -> tuple[str, ...]:
        """Labels of the known generators, sorted."""
        return tuple(sorted({r.label for r in self.records if r.fold != "open"}))

    @cached_property
    def unknown(self) -> tuple[str, ...]:
        """Labels of the open set, sorted."""
        return tuple(sorted({r.label for r in self.records if r.fold == "open"}))

    @cached_property
    def crossing_groups(self) -> tuple[str, ...]:
        """Groups with images in more than one of train, val and test, sorted.

        Empty for every cut of ours; a given split or index file may part a group, and its
        word stands.
        """
        folds: defaultdict[str, set[str]] = defaultdict(set)
        for record in self.records:
            if record.fold != "open":
                folds[record.group].add(record.fold)
        return tuple(sorted(group for group, where in folds.items() if len(where) > 1))

    def select(self, which: Split) -> DatasetIndex:
        """The same index with the known generators only, the open set only, or all of it."""
        if which == "all":
            return self
        keep = tuple(r for r in self.records if (r.fold == "open") == (which == "open"))
        return replace(self, records=keep)

    def counts(self) -> dict[str, dict[str, int]]:
        """Images per label and fold; every label has all of `FOLDS`, zeros included."""
        tally = Counter((record.label, record.fold) for record in self.records)
        labels = (*self.classes, *self.unknown)
        return {label: {fold: tally[label, fold] for fold in FOLDS} for label in labels}

    def as_csv(self, folder: Path) -> str:
        """The records as `path,label,group,fold`, for a file in `folder`."""
        text = io.StringIO()
        # With \r\n between rows, the writer also quotes cells that hold a lone \r.
        writer = csv.writer(text, lineterminator="\r\n")
        writer.writerow(COLUMNS)
        writer.writerows(
            (
                _path_cell(relative_to(self.root, record.path, folder)),
                cell(record.label),
                cell(record.group),
                record.fold,
            )
            for record in self.records
        )
        return text.getvalue()

    def write_csv(self, path: Path) -> None:
        """Write `path,label,group,fold`, which `read_index` reads back to the same records.

        Paths below the file's folder are written relative to it, others absolute, so a file
        at the root can be moved with the images. Raises DataError where it cannot be written.
        """
        folder = Path(os.path.normpath(path.absolute().parent))
        try:
            folder.mkdir(parents=True, exist_ok=True)
            with path.open("w", encoding="utf-8", newline="") as file:
                file.write(self.as_csv(folder))
        except OSError as error:
            raise DataError(
                f"{path} cannot be written ({error.strerror}): choose another file with --out"
            ) from error


def _path_cell(path: str) -> str:
    # A prefix of ./ changes no path, so other readers of the table still find the file.
    return f"./{path}" if cell(path) != path else path


def relative_to(root: Path, path: str, folder: Path) -> str:
    """`path`, given relative to `root` or absolute, as POSIX text: relative below `folder`."""
    full = os.path.normpath(f"{root.as_posix()}/{path}" if not path.startswith("/") else path)
    prefix = folder.as_posix().rstrip("/") + "/"
    return full.removeprefix(prefix)


def canonical(records: Iterable[ImageRecord]) -> tuple[ImageRecord, ...]:
    """Records sorted by (fold order, label, path)."""
    return tuple(sorted(records, key=lambda r: (_FOLD_ORDER[r.fold], r.label, r.path)))


# Formats that decode() cannot read (HEIC, SVG, ...) are images all the same: they are listed
# as rejects with their own reason by whoever decodes, not dropped here.
# fmt: off
IMAGE_SUFFIXES = frozenset(
    {
        ".png", ".apng", ".jpg", ".jpeg", ".jpe", ".jfif", ".webp", ".gif", ".bmp", ".dib", ".tif",
        ".tiff", ".avif", ".jp2", ".j2k", ".jpx", ".ppm", ".pgm", ".pbm", ".pnm", ".heic", ".heif",
        ".svg", ".tga", ".psd", ".ico", ".jxl"
    }
)
# Folders that file systems, archives and network storage leave behind.
_DROPPINGS = frozenset(
    {
        "__macosx", "lost+found", "system volume information", "$recycle.bin", "recycler",
        "#recycle", "#snapshot", "__pycache__", "thumbs", "thumbnails"
    }
)
# fmt: on
_STARTS = (b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"GIF8", b"II*\0", b"MM\0*")
METADATA = frozenset({"metadata.csv", "metadata.jsonl", "metadata.parquet"})
UNPACKED = (".parquet", ".tar", ".tgz", ".tar.gz", ".tar.bz2", ".tar.xz")
"""Archives whose images `leakcache.dataset.archives` or `leak data unpack` reads."""
ARCHIVES = (*UNPACKED, ".zip", ".7z", ".rar", ".arrow")
TABLES = frozenset({".csv", ".tsv", ".jsonl"})
_Pending = tuple[str, frozenset[tuple[int, int]], bool]  # folder, those above it, taken?
_STEP = re.compile(r"step[ _-]?([123])", re.IGNORECASE)


def step_of(name: str) -> str | None:
    """The step, as "step1" to "step3", whose post-processed copies a folder of that name holds."""
    match = _STEP.fullmatch(name)
    return f"step{match[1]}" if match else None


@dataclass
class Tree:
    """A folder, with or without what lies below it.

    Attributes:
        images: of each folder that holds some, by the folder's path ("" is the root).
        folders: all folders that were entered, but the root.
        steps: folders of post-processed copies that were not entered.
        metadata: files named as Hugging Face's ImageFolder names them.
        archives: Parquet files, tar, zip and other archives.
        tables: other CSV and JSON lines files.
        rejects: what could not be read.
    """

    images: dict[str, list[str]] = field(default_factory=dict)
    folders: list[str] = field(default_factory=list)
    steps: list[str] = field(default_factory=list)
    metadata: list[str] = field(default_factory=list)
    archives: list[str] = field(default_factory=list)
    tables: list[str] = field(default_factory=list)
    rejects: list[Reject] = field(default_factory=list)


def list_folder(root: Path, relative: str, *, any_name: bool = False) -> Tree:
    """What lies in the folder `relative` of `root` ("" is the root itself), not what is below.

    A folder that cannot be read is a reject.

    Names that are not UTF-8 are rejects, as tables cannot hold them, unless `any_name` is set.
    """
    contents = Tree()
    prefix = f"{relative}/" if relative else ""
    try:
        with os.scandir(root / relative) as entries:
            for entry in entries:
                _sort_in(entry, prefix, contents, any_name)
    except OSError as error:
        contents.rejects.append(
            Reject(relative or ".", f"folder cannot be read: {error.strerror or error}")
        )
    return contents


def _sort_in(entry: os.DirEntry[str], prefix: str, contents: Tree, any_name: bool) -> None:
    """Put one entry where it belongs; what is not named like an image is passed over."""
    name = entry.name
    if name.startswith(".") or name.casefold() in _DROPPINGS:
        return
    suffix = _suffix(name)
    kind = _kind(entry)
    if kind == "folder" and name.startswith("@"):  # thumbnails and snapshots of storage boxes
        return
    if not (any_name or _is_utf8(name)):
        if kind == "folder" or suffix in IMAGE_SUFFIXES:
            shown = visible(prefix + name)
            contents.rejects.append(Reject(shown, "the name is not valid UTF-8"))
    elif kind == "folder":
        contents.folders.append(prefix + name)
    elif kind == "file" and (suffix in IMAGE_SUFFIXES or (not suffix and _begins_as_image(entry))):
        contents.images.setdefault(prefix[:-1], []).append(prefix + name)
    elif suffix in IMAGE_SUFFIXES:
        contents.rejects.append(Reject(prefix + name, kind))
    elif name.casefold() in METADATA:
        contents.metadata.append(prefix + name)
    elif name.lower().endswith(ARCHIVES):
        contents.archives.append(prefix + name)
    elif suffix in TABLES:
        contents.tables.append(prefix + name)


def _begins_as_image(entry: os.DirEntry[str]) -> bool:
    """Whether a file without a suffix is an image; one with another suffix is not opened."""
    try:
        with Path(entry.path).open("rb") as file:
            start = file.read(12)
    except OSError:
        return False
    return start.startswith(_STARTS) or (start[:4] == b"RIFF" and start[8:] == b"WEBP")


def _suffix(name: str) -> str:
    _, dot, ending = name.rpartition(".")
    return dot + ending.lower() if dot else ""


def _is_utf8(name: str) -> bool:
    return name.isascii() or not any("\ud800" <= character <= "\udfff" for character in name)


def _kind(entry: os.DirEntry[str]) -> str:
    """Either "folder" or "file", or the reason why the entry is neither."""
    try:
        if entry.is_dir():
            return "folder"
        if entry.is_file():
            return "file"
    except OSError as error:
        return f"cannot be read: {error.strerror}"
    return "not a regular file" if Path(entry.path).exists() else "broken link"


def scan(
    root: Path, *, step: str | None = None, enter_steps: bool = False, any_name: bool = False
) -> Tree:
    """All images at any depth below `root`.

    Folders named step1, step2 or step3 hold post-processed copies: they are not entered, or,
    where `step` names one of them, only what lies below that one is taken. With `enter_steps`
    they are folders like others. `any_name` as in `list_folder`.
    """
    tree = Tree()
    pending: list[_Pending] = [("", frozenset(), step is None)]
    while pending:
        here, above, taken = pending.pop()
        identity = _identity(root, here)
        if isinstance(identity, str) or identity in above:
            reason = identity if isinstance(identity, str) else "link back to a folder above it"
            tree.rejects.append(Reject(here or ".", reason))
            continue
        contents = list_folder(root, here, any_name=any_name)
        if taken:
            _take(tree, contents)
        for folder in contents.folders:
            copies = None if enter_steps else step_of(folder.rpartition("/")[2])
            if copies is None or copies == step:
                tree.folders.append(folder)
                pending.append((folder, above | {identity}, taken or copies is not None))
            else:
                tree.steps.append(folder)
    return tree


def images_below(root: Path) -> tuple[list[str], list[Reject]]:
    """All images below a folder, sorted, whatever its layout, and what could not be read."""
    tree = scan(root, enter_steps=True, any_name=True)
    images = [image for folder in tree.images.values() for image in folder]
    return sorted(images), tree.rejects


def _take(tree: Tree, contents: Tree) -> None:
    tree.images |= {folder: sorted(images) for folder, images in contents.images.items()}
    tree.metadata += contents.metadata
    tree.archives += contents.archives
    tree.tables += contents.tables
    tree.rejects += contents.rejects


def _identity(root: Path, folder: str) -> tuple[int, int] | str:
    """Device and inode, which tell a link loop from a new folder, or why there are none."""
    try:
        status = (root / folder).stat()
    except OSError as error:
        return f"folder cannot be read: {error.strerror}"
    return status.st_dev, status.st_ino
