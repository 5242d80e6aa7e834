"""The layout that the names of the folders suggest, or the question that they leave."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from leakcache.dataset.placed import (
    Layout,
    Parts,
    Placed,
    ask,
    fold_of,
    is_number,
    is_prompt,
    kind_of,
    named,
    no_class,
    parts_of,
    stem_of,
    without_number,
)
from leakcache.dataset.records import Tree
from leakcache.names import normal_form, visible

_WRAPPERS = frozenset({"data", "dataset", "datasets", "image", "images", "imgs"})
# Subjects of the data sets whose generators have a folder for each (LSUN, COCO, CIFAR, ...).
_SUBJECTS = frozenset(
    "airplane aeroplane apple bedroom bicycle bike bird boat bottle bridge bus car cat celebahq "
    "chair church cow deer diningtable dog face faces ffhq flower frog horse imagenet kitchen "
    "landscape lsun motorbike motorcycle orange people person plant pottedplant sheep ship sofa "
    "summer table tower train truck tvmonitor winter zebra".split()
)

_PART = re.compile(r"(k?fold|part|shard|batch|chunk|set|run|subset|folder|dir)s?[ _-]?\d+")


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
        splits = {name for name in beside if fold_of(name)}
        if splits and splits != beside and (len(splits) > 1 or depth == self.skip):
            raise ask(
                self.root,
                f"{named(splits)} are named like splits and {named(beside - splits)} beside them "
                "are not",
                "all folders of one level a name such as train, val, test, or --layout class if "
                "they are all classes",
            )
        return bool(splits) and splits == beside

    def is_kind_level(self, beside: set[str]) -> bool:
        kinds = {kind_of(name) for name in beside}
        if None in kinds:
            return False
        numbered = all(re.match(r"\d+[ _-]", name) for name in beside)
        return len(kinds) == 2 or self.has_pairs or numbered

    def _is_wrapper(self, parts: Parts) -> bool:
        alone = len(self.children[parts[:-1]]) == 1 and len(self.children[parts]) > 0
        return alone and normal_form(parts[-1]) in _WRAPPERS


def guess(root: Path, tree: Tree, folders: list[Parts], skip: int = 0) -> Layout:
    """Read folders by their names; the first `skip` components are taken as read."""
    roles_of = _Roles(root, folders, skip)
    roles = {parts: roles_of.of(parts) for parts in folders}
    _refuse_subjects(root, roles, roles_of, skip)
    _refuse_prompts_above(root, tree, roles, skip)
    _refuse_parts_above(root, roles, skip)
    above = _class_is_below(root, roles, skip)
    layout = Layout("class", kinds=any("kind" in found for found in roles.values()))
    patterns: Counter[str] = Counter()
    for folder, images in tree.images.items():
        parts = parts_of(folder)
        if parts not in roles:
            continue
        missing = _missing_level(roles_of, parts, roles[parts])
        if missing:
            layout.rejects += [no_class(image, missing) for image in images]
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
        raise ask(
            root,
            f"{named(names)} look like splits and hold images but no class folders",
            "an index with path,label,fold, or --layout class if they are classes",
        )


def _refuse_half_split(root: Path, layout: Layout) -> None:
    closed = [image for image in layout.images if image.fold != "open"]
    without = [image.folder for image in closed if not image.fold]
    given = [image.folder for image in closed if image.fold]
    if without and given:
        raise ask(
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
        outer = [parts[skip + n] for n, role in enumerate(found) if role == "plain" and n < place]
        inner = [parts[skip + n] for n, role in enumerate(found) if role == "plain" and n > place]
        above.update(outer[:1])
        below.update(name for name in inner[:1] if not is_prompt(name))
    if not above or len(below) < 2:
        return False
    if len(above) == 1:
        return True
    raise ask(
        root,
        f"folders lie above the splits ({named(above)}) and below ({named(below)}), and either "
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
            kinds = [name for name in beside if kind_of(name)]
            if kinds and len(beside) > len(kinds):
                raise ask(
                    root,
                    f"{named(beside)} lie below {visible(parts[plain[0]])}, and either may be "
                    "the classes",
                    "--layout */class or --layout class (with split where there are splits)",
                )
    heads: defaultdict[str, set[str]] = defaultdict(set)
    below: defaultdict[str, set[str]] = defaultdict(set)
    for parts, found in roles.items():
        if "kind" in found and "plain" in found:
            split = fold_of(parts[skip + found.index("split")]) if "split" in found else ""
            kind, first = found.index("kind"), found.index("plain")
            name = parts[skip + first]
            if first < kind:
                heads[split or ""].add(name)
            elif not is_number(name):
                below[kind_of(parts[skip + kind]) or ""].add(name)
    for names in heads.values():
        subjects = {name for name in names if normal_form(name) in _SUBJECTS}
        if len(names) > 1 and 2 * len(subjects) > len(names):
            raise ask(
                root,
                f"{named(subjects)} above real and generated images look like subjects, not "
                "generators",
                "--layout */kind for two classes or --layout class/kind if they are generators "
                "(with split where there are splits)",
            )
    shared = below["real"] & below["fake"]
    if shared:
        raise ask(
            root,
            f"{named(shared)} lie below both real and generated images, and may be subjects or "
            "generators",
            "--layout kind for two classes or --layout kind/class if they are generators (with "
            "split where there are splits)",
        )


def _refuse_prompts_above(
    root: Path, tree: Tree, roles: Mapping[Parts, list[str]], skip: int
) -> None:
    """Ask where the folders that would be the classes look like prompts."""
    heads: defaultdict[str, set[str]] = defaultdict(set)
    deeper = False
    for folder, images in tree.images.items():
        parts = parts_of(folder)
        plain = [n for n, role in enumerate(roles.get(parts, ())) if role == "plain"]
        if not plain or "kind" in roles[parts]:
            continue
        deeper |= len(plain) > 1
        inner = {parts[skip + plain[1]]} if len(plain) > 1 else set(map(stem_of, images))
        heads[parts[skip + plain[0]]] |= inner
    numbers = sum(map(_is_prompt_folder, heads))
    names = set().union(*heads.values())
    repeated = sum(map(len, heads.values())) >= 0.5 * len(heads) * len(names)
    few = max(map(len, heads.values()), default=0) < len(heads)
    if numbers < 0.8 * len(heads) or len(heads) < 3 or not (few and repeated) or len(names) < 2:
        return
    if deeper and sum(map(is_number, names)) > 0.5 * len(names):
        return
    raise ask(
        root,
        f"{named(heads)} above {named(names)} look like prompts, not classes",
        "--layout class if they are classes"
        + (", or --layout prompt/class" if deeper else ", or an index with path,label,group"),
    )


def _refuse_parts_above(root: Path, roles: Mapping[Parts, list[str]], skip: int) -> None:
    """Ask where the folders that would be the classes are numbered parts with the same folders."""
    below: defaultdict[str, set[str]] = defaultdict(set)
    for parts, found in roles.items():
        plain = [skip + n for n, role in enumerate(found) if role == "plain"]
        if plain and "kind" not in found:
            below[parts[plain[0]]] |= {parts[plain[1]]} if len(plain) > 1 else set()
    alike = len({frozenset(names) for names in below.values()}) == 1
    if len(below) < 2 or not alike or not all(map(_PART.fullmatch, map(normal_form, below))):
        return
    if names := next(iter(below.values())):
        raise ask(
            root,
            f"{named(below)} above {named(names)} look like parts of a data set, not classes",
            "--layout */class, or --layout class if they are classes",
        )


def _is_prompt_folder(name: str) -> bool:
    return is_number(name) or len(re.split(r"[ _]+", normal_form(name))) > 3


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
    if kind is not None and head is not None and head > kind and is_number(parts[head]):
        head = None
    if word == "real":
        label = "real"
    elif head is None:
        label = without_number(parts[kind]) if kind is not None else ""
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
