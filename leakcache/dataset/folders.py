"""What lies in a folder: images, sub-folders, and what is neither, without a stat per file."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from leakcache.dataset.records import Reject

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
# Text, tables, scripts and system files that usually lie beside images.
BESIDE_IMAGES = frozenset(
    {
        ".txt", ".md", ".rst", ".json", ".jsonl", ".csv", ".tsv", ".parquet", ".yaml", ".yml",
        ".toml", ".xml", ".html", ".htm", ".log", ".db", ".ini", ".py", ".sh"
    }
)
# fmt: on
_Pending = tuple[str, frozenset[tuple[int, int]], bool]  # folder, those above it, taken?
_STEP = re.compile(r"step[ _-]?([123])", re.IGNORECASE)


def step_of(name: str) -> str | None:
    """The step, as "step1" to "step3", whose post-processed copies a folder of that name holds."""
    match = _STEP.fullmatch(name)
    return f"step{match[1]}" if match else None


@dataclass
class Contents:
    """One folder: paths relative to the root, in the order of the file system."""

    folders: list[str] = field(default_factory=list)
    images: list[str] = field(default_factory=list)
    rejects: list[Reject] = field(default_factory=list)


@dataclass
class Scan:
    """A folder and all below it; `steps` are the folders of copies that were not entered."""

    images: list[str] = field(default_factory=list)
    rejects: list[Reject] = field(default_factory=list)
    folders: list[str] = field(default_factory=list)
    steps: list[str] = field(default_factory=list)


def list_folder(root: Path, relative: str) -> Contents:
    """The folder `relative` of `root` ("" is the root itself); an unreadable one is a reject."""
    contents = Contents()
    prefix = f"{relative}/" if relative else ""
    try:
        for entry in _entries(root, relative):
            _sort_in(entry, prefix, contents)
    except OSError as error:
        contents.rejects.append(
            Reject(relative or ".", f"folder cannot be read: {error.strerror or error}")
        )
    return contents


def _entries(root: Path, relative: str) -> Iterator[os.DirEntry[str]]:
    with os.scandir(root / relative) as entries:
        yield from entries


def _sort_in(entry: os.DirEntry[str], prefix: str, contents: Contents) -> None:
    """Put one entry where it belongs; hidden files and known companions are passed over."""
    name = entry.name
    if name.startswith("."):
        return
    if not _is_utf8(name):
        shown = (prefix + name).encode("utf-8", "backslashreplace").decode()
        contents.rejects.append(Reject(shown, "the name is not valid UTF-8"))
        return
    kind = _kind(entry)
    suffix = _suffix(name)
    if kind == "folder":
        contents.folders.append(prefix + name)
    elif kind != "file":
        contents.rejects.append(Reject(prefix + name, kind))
    elif suffix in IMAGE_SUFFIXES:
        contents.images.append(prefix + name)
    elif suffix not in BESIDE_IMAGES:
        contents.rejects.append(Reject(prefix + name, "not an image file extension"))


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
    return "broken link" if entry.is_symlink() else "not a regular file"


def scan(root: Path, relative: str, step: str | None = None) -> Scan:
    """All images at any depth below the folder `relative` of `root`.

    Folders named step1, step2 or step3 hold post-processed copies: they are not entered, or,
    where `step` names one of them, only what lies below that one is taken.
    """
    found = Scan()
    pending: list[_Pending] = [(relative, frozenset(), step is None)]
    while pending:
        here, above, taken = pending.pop()
        identity = _identity(root, here)
        if isinstance(identity, str) or identity in above:
            reason = identity if isinstance(identity, str) else "link back to a folder above it"
            found.rejects.append(Reject(here, reason))
            continue
        contents = list_folder(root, here)
        if taken:
            found.images += contents.images
            found.rejects += contents.rejects
        for folder in contents.folders:
            copies = step_of(folder.rpartition("/")[2])
            if copies is None or copies == step:
                found.folders.append(folder)
                pending.append((folder, above | {identity}, taken or copies is not None))
            else:
                found.steps.append(folder)
    return found


def _identity(root: Path, folder: str) -> tuple[int, int] | str:
    """Device and inode, which tell a link loop from a new folder, or why there are none."""
    try:
        status = (root / folder).stat()
    except OSError as error:
        return f"folder cannot be read: {error.strerror}"
    return status.st_dev, status.st_ino
