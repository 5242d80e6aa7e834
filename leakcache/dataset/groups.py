"""Which images are of one prompt: by the file's stem, or by the folder that it lies in."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from leakcache.dataset.placed import Parts, Placed, is_prompt
from leakcache.errors import DataError
from leakcache.names import normal_form, visible

CHOICES = ("stem", "folder", "file")
BY_STEM = "images of one file stem are one prompt group, in every class"
BY_FOLDER = "images of one folder below the class are one prompt group, in every class"
BY_FILE = "every image is a group of its own"
_PLAIN = re.compile(r"(samples?|images?|imgs?|pics?|pictures?|outputs?|results?|png|jpe?g)")
_BATCH = re.compile(r"(seed|batch|part|shard|chunk|run|style|version|rank|gpu|v)s?[ _-]?\d*")


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
        given: `stem`, `folder` or `file`, instead of what the names suggest.
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
    choice = given or ("folder" if by_layout or _by_folder(root, images, kinds, ask) else "stem")
    if choice == "file":
        return Grouping({i.path: i.path for i in images}, BY_FILE, "stem")
    if choice == "folder":
        keys = _folder_keys(images)
        return Grouping(keys, BY_FOLDER, "stem")
    return Grouping({i.path: PurePosixPath(i.path).stem for i in images}, BY_STEM, "folder")


def _key(image: Placed) -> Parts:
    """The folders below the class that may name a prompt."""
    folded = ((part, normal_form(part)) for part in image.inner)
    return tuple(p for p, plain in folded if not (_PLAIN.fullmatch(plain) or _BATCH.match(plain)))


def _folder_keys(images: Sequence[Placed]) -> dict[str, str]:
    """The group by folder; an image right in its class folder has its stem."""
    depth = _depth(images)
    return {
        i.path: i.prompt or "/".join(_key(i)[:depth] or i.inner) or PurePosixPath(i.path).stem
        for i in images
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
        stems[image.label, normal_form(PurePosixPath(image.path).stem)].add(_key(image))
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
