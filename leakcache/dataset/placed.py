"""Images placed by their folders, and what the name of a folder says."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from leakcache.dataset.folders import step_of
from leakcache.dataset.records import FOLD_NAMES, Finding, Reject
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
