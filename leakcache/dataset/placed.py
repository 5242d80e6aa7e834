"""Images placed by their folders: class, fold, and prompt group."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from leakcache.dataset.records import FOLD_NAMES, UNPACKED, Finding, Reject, step_of
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


CHOICES = ("stem", "prefix", "folder", "file")
BY_STEM = "images of one file stem are one prompt group, in every class"
BY_PREFIX = (
    "images whose file stems differ in the last number alone are one prompt group, in every class"
)
BY_FOLDER = "images of one folder below the class are one prompt group, in every class"
BY_FILE = "every image is a group of its own"
# 00003_01, a cat-seed42, ComfyUI_00001_, p00 (1): the number of a sample after the prompt.
_SAMPLE = re.compile(
    r"(?P<prefix>.*?\S)(?P<number>[ _.-]*\(\d+\)|[ _.-]+(?P<word>seed|sample|s|n|v)?[ _-]?\d+_?)",
    re.IGNORECASE,
)
_PLAIN = re.compile(r"(samples?|images?|imgs?|pics?|pictures?|outputs?|results?|png|jpe?g)")
_BATCH = re.compile(
    r"(seed|batch|part|shard|chunk|run|style|version|rank|gpu|v)s?[ _-]?\d*"
    r"|(64|128|256|384|512|640|768|896|1024|1152|1280|1536|2048|4096)(px|p)?$|\d+ ?x ?\d+"
)
"""Folders that part a class, by size among others, and name no prompt."""


@dataclass(frozen=True)
class Grouping:
    """The group of every image by path, and how it was found."""

    groups: dict[str, str]
    sentence: str
    other: str


def find_groups(
    root: Path,
    images: Sequence[Placed],
    *,
    given: str | None = None,
    kinds: bool = False,
    ask: bool = True,
) -> Grouping:
    """The prompt group of every image.

    A folder below the class is a prompt where there are many with few images each, as their
    names say or as the stems in them repeat; otherwise the file's stem is the prompt.

    Args:
        root: named in errors.
        images: what the layout found.
        given: one of `CHOICES`, instead of what the names suggest.
        kinds: whether real and generated images lie side by side, below subject folders.
        ask: whether to refuse what can be read in two ways; the stem is the prompt otherwise.

    Raises:
        DataError: the folders may be prompts or not.
    """
    if given not in (None, *CHOICES):
        raise DataError(
            f"--group {visible(str(given))}: {root} is no table with such a column; give "
            f"{', '.join(CHOICES)}"
        )
    by_layout = any(image.prompt for image in images)
    if given == "file":
        return Grouping({i.path: i.path for i in images}, BY_FILE, "stem")
    if given == "folder" or (not given and (by_layout or _by_folder(root, images, kinds, ask))):
        return Grouping(_folder_keys(images), BY_FOLDER, "stem|prefix|file")
    stems = {i.path: stem_of(i.path) for i in images}
    prefixes = None if given == "prefix" else frozenset() if given else _prompt_prefixes(images)
    if prefixes is not None and not prefixes:
        return Grouping(stems, BY_STEM, "folder|prefix|file")
    return Grouping(
        {path: _prompt_of(stem, prefixes) for path, stem in stems.items()},
        BY_PREFIX,
        "stem|folder|file",
    )


def find_row_groups(
    table: Path, labels: Mapping[str, str], *, given: str | None = None, ask: bool = True
) -> Grouping:
    """The prompt group of every image of a table without a column of groups.

    Args:
        table: named in errors.
        labels: by path.
        given: one of `CHOICES`, instead of what the names suggest.
        ask: as for `find_groups`.

    Raises:
        DataError: the folders may be prompts or not.
    """
    folders: defaultdict[str, list[Parts]] = defaultdict(list)
    # A shard of an archive says nothing about prompts.
    above = {
        path: [part for part in path.split("/")[:-1] if not part.lower().endswith(UNPACKED)]
        for path in labels
    }
    for path, label in labels.items():
        folders[label].append(tuple(above[path]))
    shared = {label: shared_depth(found) for label, found in folders.items()}
    images = []
    for path, label in labels.items():
        parts = above[path]
        named = [n for n, part in enumerate(parts) if normal_form(part) == normal_form(label)]
        start = named[-1] + 1 if named else shared[label]
        inner = tuple(part for part in parts[start:] if not fold_of(part))
        images.append(Placed(path, label, "", "", inner))
    return find_groups(table, images, given=given, ask=ask)


def _prompt_of(stem: str, prefixes: frozenset[str] | None) -> str:
    match = _SAMPLE.fullmatch(stem)
    prefix = match["prefix"] if match else stem
    return prefix if prefixes is None or prefix in prefixes else stem


def _prompt_prefixes(images: Sequence[Placed]) -> frozenset[str]:
    """Beginnings of stems that name prompts, of the classes with several samples a prompt."""
    stems: defaultdict[str, list[str]] = defaultdict(list)
    for image in images:
        stems[image.label].append(stem_of(image.path))
    return frozenset().union(*map(_class_prefixes, stems.values()))


def _class_prefixes(stems: Sequence[str]) -> frozenset[str]:
    """The prefixes of one class, empty where the last number is more than that of a sample.

    It is the number of a sample where the numbers repeat from prefix to prefix, and there are
    fewer numbers than prefixes or the prefixes look like prompts; or where a word says so.
    """
    numbers: defaultdict[str, set[str]] = defaultdict(set)
    said = 0
    for stem in stems:
        match = _SAMPLE.fullmatch(stem)
        numbers[match["prefix"] if match else stem].add(match["number"] if match else "")
        said += bool(match and (match["word"] or "").casefold() in ("seed", "sample"))
    several = {prefix: found for prefix, found in numbers.items() if len(found) > 1}
    images = sum(map(len, several.values()))
    if len(several) < 2 or images < 0.8 * len(stems):
        return frozenset()
    crossed = 2 * images >= len(several) * len(set().union(*several.values()))
    few = max(map(len, several.values())) <= len(several)
    prompts = sum(map(is_prompt, several)) >= 0.8 * len(several)
    is_sample = (crossed and (few or prompts)) or said == len(stems)
    return frozenset(several) if is_sample else frozenset()


def _key(image: Placed) -> Parts:
    """The folders below the class that may name a prompt."""
    folded = ((part, normal_form(part)) for part in image.inner)
    return tuple(p for p, plain in folded if not (_PLAIN.fullmatch(plain) or _BATCH.match(plain)))


def _folder_keys(images: Sequence[Placed]) -> dict[str, str]:
    """The group by folder; an image right in its class folder has its stem."""
    depth = _depth(images)
    return {
        i.path: i.prompt or "/".join(_key(i)[:depth] or i.inner) or stem_of(i.path) for i in images
    }


def _depth(images: Sequence[Placed]) -> int:
    """How many of the folders name the prompt: the fewest that leave few images in each."""
    deepest = max((len(_key(image)) for image in images), default=0)
    for depth in range(1, deepest):
        folders = {(image.label, *_key(image)[:depth]) for image in images}
        labels = {image.label for image in images}
        if len(folders) ** 2 >= len(images) * len(labels):
            return depth
    return max(deepest, 1)


def _by_folder(root: Path, images: Sequence[Placed], kinds: bool, ask: bool) -> bool:
    if kinds or not images or not all(map(_key, images)):
        return False
    keys: defaultdict[str, set[Parts]] = defaultdict(set)
    stems: defaultdict[tuple[str, str], set[Parts]] = defaultdict(set)
    for image in images:
        keys[image.label].add(_key(image))
        stems[image.label, normal_form(stem_of(image.path))].add(_key(image))
    if min(map(len, keys.values())) < 2:
        return False
    names = {part for found in keys.values() for key in found for part in key}
    prompts = sum(map(is_prompt, names)) >= 0.8 * len(names)
    repeated = any(len(found) > 1 for found in stems.values())
    folders = sum(map(len, keys.values()))
    small = folders**2 >= len(images) * len(keys)
    shared = len(keys) > 1 and bool(set.intersection(*keys.values()))
    if prompts and (repeated or shared or small):
        return True
    if small and (repeated or shared):
        return folders < len(images)
    if ask and repeated and len(keys) > 1 and not any(image.fold for image in images):
        shown = ", ".join(sorted(map(visible, names))[:6])
        raise DataError(
            f"{root}: the folders {shown} below the classes have images of the same names, and "
            "either the folder or the name may be the prompt. Give --group folder or --group stem"
        )
    return False
