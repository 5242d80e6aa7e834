"""Which folder of a data set is a split, a class, or real and generated images side by side.

A layout is written as the levels below the root, from the top: `split/class`, `class/split/kind`.
The levels are

    split    train, val or test, in their usual spellings
    class    the generator
    kind     real and generated images: {0_real,1_fake}, {ai,nature}, {real,fake}
    prompt   one folder a prompt: its images are one group
    *        any other folder

Whatever lies deeper counts for the class. WILD's Closed_Set and Open_Set come above all levels.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from leakcache.dataset.folders import Tree, step_of
from leakcache.dataset.records import FOLD_NAMES, Finding, Reject
from leakcache.errors import DataError
from leakcache.names import normal_form, visible

LEVELS = ("split", "class", "kind", "prompt", "*")
EXPECTED = (
    "one folder of images a class, also below or above train, val and test; real and generated "
    "images side by side; WILD's Closed_Set and Open_Set; or a CSV, JSON lines or Parquet index"
)
_SIDES = {"closed_set": False, "open_set": True}
_REAL = frozenset({"real", "nature", "natural", "authentic", "genuine", "pristine", "original"})
_FAKE = frozenset({"fake", "ai", "generated", "synthetic", "aigc", "synth", "ai_generated", "gen"})
_WRAPPERS = frozenset({"data", "dataset", "datasets", "image", "images", "imgs"})
# Subjects of the data sets whose generators have a folder for each (LSUN, COCO, CIFAR, ...).
_SUBJECTS = frozenset(
    "airplane aeroplane apple bedroom bicycle bike bird boat bottle bridge bus car cat celebahq "
    "chair church cow deer diningtable dog face faces ffhq flower frog horse imagenet kitchen "
    "landscape lsun motorbike motorcycle orange people person plant pottedplant sheep ship sofa "
    "summer table tower train truck tvmonitor winter zebra".split()
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
    plain = re.sub(r"[ _-]?(set|images?|imgs?|data|split|fold|\d{4})$", "", normal_form(name))
    return FOLD_NAMES.get(plain)


def kind_of(name: str) -> str | None:
    """Either "real" or "fake" for a folder of real or of generated images."""
    plain = _without_number(name)
    return "real" if plain in _REAL else "fake" if plain in _FAKE else None


def _without_number(name: str) -> str:
    plain = re.sub(r"^\d+[ _-]+", "", normal_form(name))
    plain = re.sub(r"[ _-]?(images?|imgs?|photos?)$", "", plain)
    return plain.removesuffix("s") if plain.removesuffix("s") in _REAL | _FAKE else plain


def find_layout(
    root: Path,
    tree: Tree,
    *,
    step: str | None = None,
    open_only: bool = False,
    levels: str | None = None,
) -> Layout:
    """The images of a scanned root with class and fold; `step` is the one that was scanned.

    With `open_only` every class is open: those of WILD's Open_Set where there is one, else all,
    and a flat folder of images is one class named after the folder. `levels` overrides what the
    names of the folders suggest.

    Raises DataError where there are no classes, where the folders can be read in two ways, or
    where a class is known and open at once.
    """
    folders = {_parts(folder): folder for folder in tree.images}
    sides = {p[0] for p in map(_parts, tree.folders) if p and _side(p[0])}
    if levels is not None:
        layout = _explicit(root, tree, _levels(levels))
    elif sides:
        layout = _wild(root, tree, sides, open_only)
    else:
        _refuse_nested_sets(root, tree)
        layout = _guess(root, tree, [parts for parts in folders if parts])
        layout.rejects += [_no_class(i, "the class folders") for i in tree.images.get("", [])]
        if open_only:
            layout.images = [_opened(image) for image in layout.images]
        if not layout.images:
            _flat(root, tree, layout, open_only, step)
    layout.rejects += tree.rejects
    layout.findings += [*_about_steps(root, tree, step), *_empty(tree, layout, step)]
    _refuse_both_sides(root, layout)
    return layout


def _parts(folder: str) -> Parts:
    """The components of a folder but those of steps."""
    return tuple(part for part in folder.split("/") if part and step_of(part) is None)


def _side(name: str) -> str | None:
    plain = normal_form(name).replace(" ", "_").replace("-", "_")
    return plain if plain in _SIDES else None


def _opened(image: Placed) -> Placed:
    return Placed(image.path, image.label, "open", image.folder, image.inner, image.prompt)


def _no_class(image: str, what: str) -> Reject:
    return Reject(image, f"lies beside {what}, so it has no class")


def _wild(root: Path, tree: Tree, sides: set[str], open_only: bool) -> Layout:
    opened = {name for name in sides if _SIDES[_side(name) or ""]}
    if open_only and not opened:
        raise DataError(f"{root} has a {min(sides)} but no Open_Set: give the open images")
    layout = Layout("class", is_wild=True)
    for name in sorted(opened if open_only else sides):
        below = [p for p in map(_parts, tree.images) if len(p) > 1 and p[0] == name]
        part = _guess(root, tree, below, skip=1)
        layout.levels = part.levels
        layout.kinds |= part.kinds
        layout.rejects += part.rejects
        layout.images += map(_opened, part.images) if name in opened else part.images
    for folder, images in tree.images.items():
        if len(_parts(folder)) < 2 and (not folder or folder in sides):
            what = "the sets" if not folder else "the class folders"
            layout.rejects += [_no_class(image, what) for image in images]
    beside = sorted({p[0] for p in map(_parts, tree.folders) if p} - sides)
    if beside:
        names = ", ".join(map(visible, beside))
        layout.findings.append(Finding("note", f"{names} beside the sets left out"))
    if not layout.images:
        raise DataError(f"{root} has no images in class folders: expected {EXPECTED}")
    return layout


def _refuse_nested_sets(root: Path, tree: Tree) -> None:
    for folder in tree.folders:
        if _side(folder.rpartition("/")[2]):
            parent = root / folder.rpartition("/")[0]
            raise DataError(f"{root} is one folder too high: give {parent}, which holds the sets")


def _flat(root: Path, tree: Tree, layout: Layout, open_only: bool, step: str | None) -> None:
    loose = tree.images.get("", [])
    if loose and open_only:
        layout.levels = "flat folder"
        layout.images = [Placed(image, root.name or "open", "open", "", ()) for image in loose]
        layout.rejects = [reject for reject in layout.rejects if reject.path not in set(loose)]
    elif loose:
        raise DataError(f"{root} holds images but no class folders: expected {EXPECTED}")
    elif tree.archives:
        raise DataError(
            f"{root} holds no image files but {visible(tree.archives[0])}: "
            f"`leak data unpack {root} --out DIR` writes the images of Parquet files and tar "
            "archives as files, then give DIR"
        )
    else:
        where = f"{root} has no images in class folders" + (f" below {step}" if step else "")
        seen = f" ({tree.rejects[0].path}: {tree.rejects[0].reason})" if tree.rejects else ""
        copies = f", for its copies give {root}/{_top_step(tree)}" if tree.steps else ""
        raise DataError(f"{where}{seen}: expected {EXPECTED}{copies}")


def _top_step(tree: Tree) -> str:
    return min(step_of(folder.rpartition("/")[2]) or folder for folder in tree.steps)


def _about_steps(root: Path, tree: Tree, step: str | None) -> list[Finding]:
    """A line of its own for the folders of copies that were left out."""
    names = sorted({folder.rpartition("/")[2] for folder in tree.steps})
    left_out = [name for name in names if step_of(name) != step]
    if not left_out:
        return []
    named = ", ".join(map(visible, left_out))
    sentence = (
        f"{named} left out as post-processed copies; {root}/{step_of(left_out[0])} reads them. "
        "If they are classes, rename them or give --layout class"
    )
    top = any("/" not in folder for folder in tree.steps)
    return [Finding("warning" if top and not any(map(_side, tree.folders)) else "note", sentence)]


def _empty(tree: Tree, layout: Layout, step: str | None) -> list[Finding]:
    """Folders where others have classes, but without any image below."""
    if step is not None:
        return []
    depth = {len(_parts(image.folder)) for image in layout.images}
    refused = {reject.path for reject in layout.rejects}
    full = [f"{folder}/" for folder in tree.images]
    empty = [
        folder
        for folder in tree.folders
        if len(_parts(folder)) in depth
        and folder not in refused
        and not any(path.startswith(f"{folder}/") for path in full)
    ]
    return [Finding("warning", f"{visible(folder)} has no images") for folder in sorted(empty)]


def _refuse_both_sides(root: Path, layout: Layout) -> None:
    known = {normal_form(image.label) for image in layout.images if image.fold != "open"}
    both = sorted(
        i.label for i in layout.images if i.fold == "open" and normal_form(i.label) in known
    )
    if both:
        raise DataError(
            f"{visible(both[0])} lies in both Closed_Set and Open_Set of {root}: a class is known "
            "or unknown, remove one of the two folders"
        )


def _ask(root: Path, what: str, choices: str) -> DataError:
    return DataError(f"{root}: {what}. Give {choices}")


def _named(names: Iterable[str]) -> str:
    shown = [visible(name) for name in sorted(names)]
    return ", ".join(shown[:6]) + (f" and {len(shown) - 6} more" if len(shown) > 6 else "")


# The guess.


class _Roles:
    """The level of every folder, from its name and those of the folders beside it."""

    def __init__(self, root: Path, folders: Sequence[Parts], skip: int) -> None:
        self.root, self.skip = root, skip
        self.children: defaultdict[Parts, set[str]] = defaultdict(set)
        for parts in folders:
            for depth in range(skip, len(parts)):
                self.children[parts[:depth]].add(parts[depth])
        kinds = ({kind_of(name) for name in names} for names in self.children.values())
        self.has_pairs = any(found == {"real", "fake"} for found in kinds)

    def of(self, parts: Parts) -> list[str]:
        """One of "split", "kind", "wrapper" and "plain" for each component after the skipped."""
        roles: list[str] = []
        for depth in range(self.skip, len(parts)):
            beside = self.children[parts[:depth]]
            if "split" not in roles and self._is_split_level(beside, depth):
                roles.append("split")
            elif "kind" not in roles and self.is_kind_level(beside):
                roles.append("kind")
            elif depth == self.skip and self._is_wrapper(parts[: depth + 1]):
                roles.append("wrapper")
            else:
                roles.append("plain")
        return roles

    def _is_split_level(self, beside: set[str], depth: int) -> bool:
        named = {name for name in beside if fold_of(name)}
        if named and named != beside and (len(named) > 1 or depth == self.skip):
            raise _ask(
                self.root,
                f"{_named(named)} look like splits, {_named(beside - named)} beside them do not",
                "--layout split/class or class/split once all folders of a level are of one "
                "sort, or --layout class if they are all classes",
            )
        return bool(named) and named == beside

    def is_kind_level(self, beside: set[str]) -> bool:
        kinds = {kind_of(name) for name in beside}
        if None in kinds:
            return False
        numbered = all(re.match(r"\d+[ _-]", name) for name in beside)
        return len(kinds) == 2 or self.has_pairs or numbered

    def _is_wrapper(self, parts: Parts) -> bool:
        alone = len(self.children[parts[:-1]]) == 1 and len(self.children[parts]) > 0
        return alone and normal_form(parts[-1]) in _WRAPPERS


def _guess(root: Path, tree: Tree, folders: list[Parts], skip: int = 0) -> Layout:
    """Read folders by their names; the first `skip` components are taken as read."""
    roles_of = _Roles(root, folders, skip)
    roles = {parts: roles_of.of(parts) for parts in folders}
    _refuse_subjects(root, roles, roles_of, skip)
    above = _class_is_below(root, roles, skip)
    layout = Layout("class", kinds=any("kind" in found for found in roles.values()))
    patterns: Counter[str] = Counter()
    for folder, images in tree.images.items():
        parts = _parts(folder)
        if parts not in roles:
            continue
        missing = _missing_level(roles_of, parts, roles[parts])
        if missing:
            layout.rejects += [_no_class(image, missing) for image in images]
            continue
        place = _place(folder, parts[skip:], roles[parts], above)
        patterns[place.levels] += len(images)
        layout.images += [
            Placed(image, place.label, place.fold, place.folder, place.inner) for image in images
        ]
    layout.levels = patterns.most_common(1)[0][0] if patterns else "class"
    _refuse_no_classes(root, roles, layout)
    _refuse_half_split(root, layout)
    return layout


def _missing_level(roles_of: _Roles, parts: Parts, roles: list[str]) -> str:
    """What an image right in this folder lies beside, where that leaves its class open."""
    beside = roles_of.children.get(parts, set())
    if beside and "kind" not in roles and roles_of.is_kind_level(beside):
        return "real and generated folders"
    if beside and "split" not in roles and all(map(fold_of, beside)):
        return "the split folders"
    if not {"plain", "kind"} & set(roles):
        return "the class folders"
    return ""


def _refuse_no_classes(root: Path, roles: Mapping[Parts, list[str]], layout: Layout) -> None:
    if layout.images or not layout.rejects:
        return
    names = {parts[-1] for parts, found in roles.items() if found and found[-1] == "split"}
    if names:
        raise _ask(
            root,
            f"{_named(names)} look like splits and hold images but no class folders",
            "an index with path,label,fold, or --layout class if they are classes",
        )


def _refuse_half_split(root: Path, layout: Layout) -> None:
    closed = [image for image in layout.images if image.fold != "open"]
    without = [image.folder for image in closed if not image.fold]
    given = [image.folder for image in closed if image.fold]
    if without and given:
        raise _ask(
            root,
            f"{visible(given[0])} has split folders and {visible(without[0])} has none",
            "every class train, val and test, or --layout class to cut the folds anew",
        )


def _class_is_below(root: Path, roles: Mapping[Parts, list[str]], skip: int) -> bool:
    """Whether the class lies below the split although a folder lies above it, too."""
    above: set[str] = set()
    below: set[str] = set()
    for parts, found in roles.items():
        if "split" not in found or "kind" in found:
            continue
        place = found.index("split")
        named = [parts[skip + n] for n, role in enumerate(found) if role == "plain" and n < place]
        inner = [parts[skip + n] for n, role in enumerate(found) if role == "plain" and n > place]
        above.update(named[:1])
        below.update(name for name in inner[:1] if not is_prompt(name))
    if not above or len(below) < 2:
        return False
    if len(above) == 1:
        return True
    raise _ask(
        root,
        f"folders lie above the splits ({_named(above)}) and below ({_named(below)}), and either "
        "may be the classes",
        "--layout class/split or --layout */split/class",
    )


def _refuse_subjects(
    root: Path, roles: Mapping[Parts, list[str]], roles_of: _Roles, skip: int
) -> None:
    """Ask where the folder that would be the class looks like a subject."""
    for parts, found in roles.items():
        plain = [skip + n for n, role in enumerate(found) if role == "plain"]
        for depth in plain[1:]:
            beside = roles_of.children[parts[:depth]]
            real = [name for name in beside if kind_of(name) == "real"]
            if real and len(beside) > len(real):
                raise _ask(
                    root,
                    f"{_named(beside)} lie below {visible(parts[plain[0]])}, and either may be "
                    "the classes",
                    "--layout */class or --layout class (with split where there are splits)",
                )
    heads = {
        parts[skip + found.index("plain")]
        for parts, found in roles.items()
        if "kind" in found and "plain" in found
    }
    subjects = {name for name in heads if normal_form(name) in _SUBJECTS}
    if len(heads) > 1 and 2 * len(subjects) > len(heads):
        raise _ask(
            root,
            f"{_named(subjects)} above real and generated images look like subjects, not "
            "generators",
            "--layout */kind for two classes or --layout class/kind if they are generators (with "
            "split where there are splits)",
        )


@dataclass(frozen=True)
class _Place:
    label: str
    fold: str
    folder: str
    inner: Parts
    levels: str


def _place(folder: str, parts: Parts, roles: list[str], class_is_below: bool) -> _Place:
    """What the components of one folder say of the images in it."""
    split = roles.index("split") if "split" in roles else None
    kind = roles.index("kind") if "kind" in roles else None
    plain = [n for n, role in enumerate(roles) if role == "plain"]
    if class_is_below and split is not None:
        plain = [n for n in plain if n > split] or plain
    word = kind_of(parts[kind]) if kind is not None else None
    head: int | None = plain[0] if plain else None
    if kind is not None and head is not None and head > kind and is_prompt(parts[head]):
        head = None
    if word == "real":
        label = "real"
    elif head is None:
        label = _without_number(parts[kind]) if kind is not None else ""
    else:
        label = parts[head]
    used = {n for n in (split, kind, head) if n is not None}
    last = max((n for n in (head, kind) if n is not None), default=0)
    inner = tuple(parts[n] for n in plain if n not in used)
    words = ["split" if n == split else "kind" if n == kind else "class" if n == head else "*"
             for n in range(max(used) + 1)]  # fmt: skip
    full = folder.split("/")
    extra = len(full) - len(parts)
    return _Place(
        label,
        (fold_of(parts[split]) or "") if split is not None else "",
        "/".join(full[: extra + last + 1]),
        inner,
        "/".join(words),
    )


def is_prompt(name: str) -> bool:
    """Whether a folder's name looks like that of a prompt: a number, a hash, a sentence."""
    plain = normal_form(name)
    return bool(
        re.fullmatch(r"\d+|[0-9a-f]{8,}|\d{3,}[ _-].*", plain)
        or "prompt" in plain
        or len(re.split(r"[ _-]+", plain)) > 3
    )


# The layout that was given.


def _levels(text: str) -> list[str]:
    levels = [normal_form(level) for level in text.strip("/ ").split("/")]
    levels = ["class" if level == "generator" else level for level in levels]
    levels = ["*" if level == "subject" else level for level in levels]
    odd = [level for level in levels if level not in LEVELS]
    repeated = [n for n in LEVELS[:-1] if levels.count(n) > 1]
    if odd or repeated or not {"class", "kind"} & set(levels):
        raise DataError(
            f"--layout {visible(text)}: join levels of {', '.join(LEVELS)} by /, each once, with "
            "class or kind among them, as in split/class"
        )
    return levels


def _explicit(root: Path, tree: Tree, levels: list[str]) -> Layout:
    layout = Layout("/".join(levels), kinds="kind" in levels)
    for folder, images in tree.images.items():
        parts = tuple(part for part in folder.split("/") if part)
        if len(parts) < len(levels):
            layout.rejects += [
                Reject(i, f"lies above the folders of --layout {layout.levels}") for i in images
            ]
            continue
        named = dict(zip(levels, parts, strict=False))
        fold = _checked(root, named.get("split"), fold_of, "a split (train, val, test)")
        kind = _checked(root, named.get("kind"), kind_of, "real or generated")
        label = "real" if kind == "real" else named.get("class") or _without_number(named["kind"])
        last = max(n for n, level in enumerate(levels) if level in ("class", "kind"))
        layout.images += [
            Placed(
                image,
                label,
                fold,
                "/".join(parts[: last + 1]),
                parts[len(levels) :],
                named.get("prompt", ""),
            )
            for image in images
        ]
    if not layout.images:
        raise DataError(f"{root} has no images below {len(levels)} folders: --layout does not fit")
    return layout


def _checked(root: Path, name: str | None, meaning: object, what: str) -> str:
    if name is None:
        return ""
    found = meaning(name) if callable(meaning) else None
    if not found:
        raise DataError(f"{root}: --layout takes {visible(name)} for {what}, which it is not")
    return str(found)
