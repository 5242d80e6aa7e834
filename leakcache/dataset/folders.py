"""What lies in a folder: images, sub-folders, and what is neither, without a stat per file."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from leakcache.dataset.records import Reject
from leakcache.errors import DataError

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


# Where the classes lie under a root: plain class folders, WILD's two sets, flat folders.
#
# ROOT/<Class>/**                    class folders; nested images count for their class
# ROOT/{Closed_Set,Open_Set}/<Class>/**   WILD; the open set's classes are never trained on
# .../step1, step2, step3/...        post-processed copies, at any depth: left out unless asked

EXPECTED = "one folder of images a class, WILD's Closed_Set and Open_Set, or a CSV index"
_SIDES = {"closed_set": False, "open_set": True}


@dataclass(frozen=True)
class ClassFolder:
    """The images of one class, relative to the root; `folder` is where they were found."""

    label: str
    folder: str
    is_open: bool
    images: tuple[str, ...]

    def within(self, path: str) -> str:
        """`path` relative to the class folder, with the step folders taken out."""
        inner = path.removeprefix(f"{self.folder}/").split("/")
        return "/".join(part for part in inner if step_of(part) is None)


@dataclass
class Layout:
    """All classes of a root. `steps` are the folders of copies left out, `ignored` others."""

    kind: str
    classes: list[ClassFolder] = field(default_factory=list)
    rejects: list[Reject] = field(default_factory=list)
    steps: set[str] = field(default_factory=set)
    ignored: list[str] = field(default_factory=list)

    def sentence(self) -> str:
        """What was found and what was left out, as the first words of the index's layout."""
        closed = len({c.label for c in self.classes if not c.is_open})
        opened = len({c.label for c in self.classes if c.is_open})
        parts = [f"{self.kind}: {closed} known and {opened} unknown classes"]
        if self.steps:
            parts.append(f"post-processed copies in {', '.join(sorted(self.steps))} left out")
        if self.ignored:
            parts.append(f"{', '.join(sorted(self.ignored))} beside the sets left out")
        return "; ".join(parts)


def find_layout(root: Path, *, step: str | None = None, open_only: bool = False) -> Layout:
    """The classes under `root`; with `step`, those of the post-processed copies of that name.

    With `open_only` every class is open: WILD's Open_Set where there is one, else all of it,
    and a flat folder of images counts as one class named after the folder.

    Raises DataError where there are no classes, none that is open though asked for, or one
    that is known and open at once.
    """
    top = list_folder(root, "")
    sides = {side: folder for folder in sorted(top.folders) if (side := _side(folder))}
    if not sides:
        return _plain(root, step, open_only)
    if open_only and "open_set" not in sides:
        raise DataError(f"{root} has a {sides['closed_set']} but no Open_Set: give the open images")
    layout = Layout("WILD", rejects=top.rejects)
    layout.rejects += [_loose(image, "the sets") for image in top.images]
    for folder in top.folders:
        name = step_of(folder)
        if name:
            layout.steps.add(name)
        elif not _side(folder):
            layout.ignored.append(folder)
    for side, folder in sides.items():
        if _SIDES[side] or not open_only:
            loose = _read_set(layout, root, folder, step, is_open=_SIDES[side])
            layout.rejects += [_loose(image, "the class folders") for image in loose]
    _refuse_both(root, layout)
    if not any(c.images for c in layout.classes):
        raise _no_images(root, layout, step)
    return layout


def _side(folder: str) -> str | None:
    name = folder.rpartition("/")[2].casefold().replace(" ", "_").replace("-", "_")
    return name if name in _SIDES else None


def _plain(root: Path, step: str | None, open_only: bool) -> Layout:
    layout = Layout("class folders")
    loose = _read_set(layout, root, "", step, is_open=open_only)
    if any(c.images for c in layout.classes):
        layout.rejects += [_loose(image, "the class folders") for image in loose]
        return layout
    if not loose:
        raise _no_images(root, layout, step)
    if not open_only:
        raise DataError(f"{root} holds images but no class folders: expected {EXPECTED}")
    layout.kind = "flat folder"
    layout.classes = [ClassFolder(root.name or "open", "", True, tuple(sorted(loose)))]
    return layout


def _no_images(root: Path, layout: Layout, step: str | None) -> DataError:
    where = f"{root} has no images in class folders" + (f" below {step}" if step else "")
    seen = f" ({layout.rejects[0].path}: {layout.rejects[0].reason})" if layout.rejects else ""
    copies = f", for its copies give {root}/{min(layout.steps)}" if layout.steps else ""
    return DataError(f"{where}{seen}: expected {EXPECTED}{copies}")


def _read_set(
    layout: Layout, root: Path, base: str, step: str | None, *, is_open: bool
) -> list[str]:
    """Add the class folders below `base`; return the images that lie loose beside them."""
    contents = list_folder(root, base)
    layout.rejects += contents.rejects
    loose = contents.images if step is None else []
    for folder in sorted(contents.folders):
        name = step_of(folder.rpartition("/")[2])
        if name is None:
            _read_class(layout, root, folder, step, is_open)
        elif name == step:
            loose = loose + _read_set(layout, root, folder, None, is_open=is_open)
        else:
            layout.steps.add(name)
    return loose


def _read_class(layout: Layout, root: Path, folder: str, step: str | None, is_open: bool) -> None:
    found = scan(root, folder, step)
    _refuse_nested_root(root, found)
    layout.rejects += found.rejects
    layout.steps |= {name for name in map(_step_name, found.steps) if name != step}
    label = folder.rpartition("/")[2]
    if found.images:
        images = tuple(sorted(found.images))
        layout.classes.append(ClassFolder(label, folder, is_open, images))
    elif step is None and not any(reject.path == folder for reject in found.rejects):
        layout.rejects.append(Reject(folder, "no images"))


def _step_name(folder: str) -> str:
    return step_of(folder.rpartition("/")[2]) or folder


def _loose(image: str, what: str) -> Reject:
    return Reject(image, f"lies beside {what}, so it has no class")


def _refuse_nested_root(root: Path, found: Scan) -> None:
    for folder in found.folders:
        if _side(folder):
            parent = root / folder.rpartition("/")[0]
            raise DataError(f"{root} is one folder too high: give {parent}, which holds the sets")


def _refuse_both(root: Path, layout: Layout) -> None:
    known = {c.label.casefold() for c in layout.classes if not c.is_open}
    both = sorted(c.label for c in layout.classes if c.is_open and c.label.casefold() in known)
    if both:
        raise DataError(
            f"{both[0]} lies in both Closed_Set and Open_Set of {root}: a class is known or"
            " unknown, remove one of the two folders"
        )
