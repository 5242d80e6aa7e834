"""Images placed by their folders or by metadata files beside them."""

from __future__ import annotations

import os
import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from leakcache.dataset.folders import Tree, step_of
from leakcache.dataset.records import FOLD_NAMES, Finding, Reject
from leakcache.dataset.table_file import PATH, Lines, read_lines, value_of
from leakcache.errors import DataError
from leakcache.names import normal_form, visible

_REAL = frozenset(
    "real nature natural authentic genuine pristine original human photo photograph camera "
    "non_ai nonai not_ai no_ai non_fake".split()
)
_FAKE = frozenset(
    "fake ai generated synthetic aigc synth ai_generated gen machine deepfake manipulated".split()
)
Parts = tuple[str, ...]


@dataclass(frozen=True)
class Placed:
    """One image and what its folders say of it.

    Attributes:
        path: relative to the root.
        label: the class.
        fold: as its folders say, "open" below Open_Set, empty where nothing says.
        folder: the folder of the class, relative to the root.
        inner: the folders between the class and the file.
        prompt: the folder that an explicit layout calls a prompt.
    """

    path: str
    label: str
    fold: str
    folder: str
    inner: Parts
    prompt: str = ""


@dataclass
class Layout:
    """How a folder was read."""

    levels: str
    images: list[Placed] = field(default_factory=list)
    rejects: list[Reject] = field(default_factory=list)
    findings: list[Finding] = field(default_factory=list)
    kinds: bool = False
    is_wild: bool = False


@dataclass(frozen=True)
class ClassFolder:
    """The images of one class, relative to the root, with their paths within the class."""

    label: str
    folder: str
    is_open: bool
    images: tuple[str, ...]
    names: Mapping[str, str]


def class_folders(layout: Layout) -> list[ClassFolder]:
    """The classes of a layout by the folder where each was found."""
    found: defaultdict[tuple[str, str, bool], list[Placed]] = defaultdict(list)
    for image in layout.images:
        found[image.label, image.folder, image.fold == "open"].append(image)
    return [
        ClassFolder(
            label,
            folder,
            is_open,
            tuple(image.path for image in images),
            {i.path: "/".join((*i.inner, i.path.rpartition("/")[2])) for i in images},
        )
        for (label, folder, is_open), images in sorted(found.items())
    ]


def fold_of(name: str) -> str | None:
    """The fold that a folder of this name holds: train2017, valid, Test_set, ..."""
    plain = re.sub(r"^\d+[ _-]+", "", normal_form(name))
    plain = re.sub(r"[ _-]?(set|images?|imgs?|data|split|fold|\d{4})$", "", plain)
    return FOLD_NAMES.get(plain)


def kind_of(name: str) -> str | None:
    """Either "real" or "fake" for a folder of real or of generated images."""
    plain = without_number(name)
    return "real" if plain in _REAL else "fake" if plain in _FAKE else None


def without_number(name: str) -> str:
    """The name of a folder of a kind, such as `fake` for 1_fake or Fakes."""
    plain = re.sub(r"^\d+[ _-]+", "", normal_form(name))
    plain = re.sub(r"[ -]", "_", re.sub(r"(?<=.)[ _-]?(images?|imgs?|photos?)$", "", plain))
    return plain.removesuffix("s") if plain.removesuffix("s") in _REAL | _FAKE else plain


def is_prompt(name: str) -> bool:
    """Whether a folder's name looks like that of a prompt: a number, a hash, a sentence."""
    return is_number(name) or len(re.split(r"[ _-]+", normal_form(name))) > 3


def is_number(name: str) -> bool:
    """Whether a folder's name is the number of a prompt, or its hash."""
    plain = normal_form(name)
    return bool(re.fullmatch(r"\d+|[0-9a-f]{8,}|\d{3,}[ _-].*", plain)) or "prompt" in plain


def parts_of(folder: str) -> Parts:
    """The components of a folder but those of steps."""
    return tuple(part for part in folder.split("/") if part and step_of(part) is None)


def shared_depth(folders: Sequence[Sequence[str]]) -> int:
    """How many components from the first all have in common."""
    levels = list(zip(*folders, strict=False))
    return next((n for n, names in enumerate(levels) if len(set(names)) > 1), len(levels))


def stem_of(path: str) -> str:
    """The file's name without folders and suffix."""
    return PurePosixPath(path).stem


def no_class(image: str, what: str) -> Reject:
    """The reject of an image that no class folder holds."""
    return Reject(image, f"lies beside {what}, so it has no class")


def ask(root: Path, what: str, choices: str) -> DataError:
    """The error for folders that can be read in two ways, with the flags that decide."""
    return DataError(f"{root}: {what}. Give {choices}")


def named(names: Iterable[str]) -> str:
    """The first names in order, and how many more there are."""
    shown = [visible(name) for name in sorted(names)]
    return ", ".join(shown[:6]) + (f" and {len(shown) - 6} more" if len(shown) > 6 else "")


_KNOWN_FOLDS = {**FOLD_NAMES, "open": "open"}


@dataclass
class Described:
    """What the metadata files of a folder say of its images, by path relative to the root.

    Attributes:
        labels: empty where no file has a column of labels.
        groups: of the images that have one.
        folds: from a column, else from a split folder above the file.
        rejects: names without an image.
        sentence: which columns of which files.
    """

    labels: dict[str, str] = field(default_factory=dict)
    groups: dict[str, str] = field(default_factory=dict)
    folds: dict[str, str] = field(default_factory=dict)
    rejects: list[Reject] = field(default_factory=list)
    sentence: str = ""


def read_metadata(
    root: Path, tree: Tree, *, label: str | None = None, group: str | None = None
) -> Described:
    """Read the metadata files of a folder; those that name no files are passed over.

    Raises DataError where one cannot be read, where two rows of a file disagree, or where a
    column that is given is missing.
    """
    described = Described()
    names = _Names(image for images in tree.images.values() for image in images)
    used: list[str] = []
    tables = [read_lines(root / name) for name in sorted(tree.metadata)]
    tables = [table for table in tables if table.first(PATH)]
    has_labels = [table for table in tables if table.label_column(label)]
    for table in has_labels or tables:
        columns = {
            "label": table.label_column(label) if has_labels else None,
            "group": table.group_column(group),
            "fold": table.fold_column(_KNOWN_FOLDS),
        }
        _read(root, table, columns, names, described)
        said = [f"{what} from column {name}" for what, name in columns.items() if name]
        if said:
            used.append(f"{table.path.relative_to(root).as_posix()}: {', '.join(said)}")
    described.sentence = _shortened(used)
    return described


def _shortened(used: Sequence[str]) -> str:
    more = f" and {len(used) - 3} more files" if len(used) > 3 else ""
    return "; ".join(used[:3]) + more


class _Names:
    """Finds images by a path that may be spelt in another Unicode form."""

    def __init__(self, images: Iterable[str]) -> None:
        self.exact = set(images)
        self.folded = {normal_form(image): image for image in self.exact}

    def find(self, path: str) -> str | None:
        return path if path in self.exact else self.folded.get(normal_form(path))


def _read(
    root: Path,
    table: Lines,
    columns: dict[str, str | None],
    names: _Names,
    described: Described,
) -> None:
    folder = table.path.parent.relative_to(root).as_posix()
    path_column = table.first(PATH) or ""
    for number, row in table.rows:
        name = row.get(path_column, "").strip().replace("\\", "/")
        if not name:
            continue
        path = os.path.normpath(f"{folder}/{name}")
        image = names.find(path)
        if image is None:
            if columns["label"]:
                where = "outside of the data folder" if path.startswith("../") else "not on disk"
                described.rejects.append(Reject(path, f"named in {table.path.name}, {where}"))
            continue
        for what, found in (
            ("label", described.labels),
            ("group", described.groups),
            ("fold", described.folds),
        ):
            value = value_of(row, columns[what])
            if what == "fold":
                value = _KNOWN_FOLDS.get(value.casefold(), "") or _fold_above(image)
            if what == "label" and columns[what] and not value:
                raise DataError(f"{table.path} row {number} has no label: fill it in")
            if value and found.setdefault(image, value) != value:
                raise DataError(
                    f"{table.path} gives {image} two {what}s, {found[image]} and {value}: keep one"
                )


def _fold_above(image: str) -> str:
    """The fold of the outermost split folder above an image; empty where there is none."""
    return next((fold for part in image.split("/")[:-1] if (fold := fold_of(part))), "")
