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

from pathlib import Path

from leakcache.dataset.layout_guess import guess
from leakcache.dataset.placed import (
    Layout,
    Placed,
    fold_of,
    kind_of,
    named,
    no_class,
    parts_of,
    without_number,
)
from leakcache.dataset.records import UNPACKED, Finding, Reject, Tree, step_of
from leakcache.dataset.table_file import PATH, read_lines
from leakcache.errors import DataError
from leakcache.names import normal_form, visible

LEVELS = ("split", "class", "kind", "prompt", "*")
EXPECTED = (
    "one folder of images a class, also below or above train, val and test; real and generated "
    "images side by side; WILD's Closed_Set and Open_Set; a CSV, JSON lines or Parquet index; or "
    "tar archives or Parquet files of images"
)
_SIDES = {"closed_set": False, "open_set": True}


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
    folders = {parts_of(folder): folder for folder in tree.images}
    sides = {p[0] for p in map(parts_of, tree.folders) if p and _side(p[0])}
    if levels is not None:
        layout = _explicit(root, tree, _levels(levels))
    elif sides:
        layout = _wild(root, tree, sides, open_only)
    else:
        _refuse_nested_sets(root, tree)
        layout = guess(root, tree, [parts for parts in folders if parts])
        layout.rejects += [no_class(i, "the class folders") for i in tree.images.get("", [])]
        if open_only:
            layout.images = [_opened(image) for image in layout.images]
        if not layout.images:
            _flat(root, tree, layout, open_only, step)
    layout.rejects += tree.rejects
    layout.findings += [*_about_steps(root, tree, step), *_empty(tree, layout, step)]
    layout.findings += _about_archives(tree)
    _refuse_both_sides(root, layout)
    if len({image.label for image in layout.images}) == 1 and (table := _table_beside(root, tree)):
        layout.findings.append(Finding("error", f"{root} has a single class{table}"))
    return layout


def _side(name: str) -> str | None:
    plain = normal_form(name).replace(" ", "_").replace("-", "_")
    return plain if plain in _SIDES else None


def _opened(image: Placed) -> Placed:
    return Placed(image.path, image.label, "open", image.folder, image.inner, image.prompt)


def _wild(root: Path, tree: Tree, sides: set[str], open_only: bool) -> Layout:
    opened = {name for name in sides if _SIDES[_side(name) or ""]}
    if open_only and not opened:
        raise DataError(f"{root} has a {min(sides)} but no Open_Set: give the open images")
    layout = Layout("class", is_wild=True)
    for name in sorted(opened if open_only else sides):
        below = [p for p in map(parts_of, tree.images) if len(p) > 1 and p[0] == name]
        part = guess(root, tree, below, skip=1)
        layout.levels = part.levels
        layout.kinds |= part.kinds
        layout.rejects += part.rejects
        layout.images += map(_opened, part.images) if name in opened else part.images
    for folder, images in tree.images.items():
        if len(parts_of(folder)) < 2 and (not folder or folder in sides):
            what = "the sets" if not folder else "the class folders"
            layout.rejects += [no_class(image, what) for image in images]
    beside = sorted({p[0] for p in map(parts_of, tree.folders) if p} - sides)
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
        raise DataError(
            f"{root} holds images but no class folders{_table_beside(root, tree)}: expected "
            f"{EXPECTED}"
        )
    elif tree.archives:
        raise DataError(
            f"{root} holds no image files but {visible(min(tree.archives))}: "
            f"{_how_to_unpack(root, tree)}"
        )
    else:
        where = f"{root} has no images in class folders" + (f" below {step}" if step else "")
        seen = f" ({tree.rejects[0].path}: {tree.rejects[0].reason})" if tree.rejects else ""
        copies = f", for its copies give {root}/{_top_step(tree)}" if tree.steps else ""
        copies += ", or --layout class if these folders are classes" if tree.steps else ""
        raise DataError(f"{where}{seen}: expected {EXPECTED}{copies}")


def _how_to_unpack(root: Path, tree: Tree) -> str:
    if any(name.lower().endswith(UNPACKED) for name in tree.archives):
        return "no column of it holds images; if it is an index, give it as --data"
    if any(name.lower().endswith(".arrow") for name in tree.archives):
        return (
            f"datasets.load_from_disk('{root}') reads it, its to_parquet writes a Parquet file, "
            "which --data takes"
        )
    return "unpack it, then give the folder"


def _about_archives(tree: Tree) -> list[Finding]:
    """A warning about archives beside the images, which may be classes; tables may be Parquet."""
    packed = sorted(name for name in tree.archives if not name.lower().endswith(".parquet"))
    if not packed:
        return []
    return [Finding("warning", f"{named(packed)} left out: unpack what holds images of a class")]


def _table_beside(root: Path, tree: Tree) -> str:
    """Names a table below the root that has the columns of an index."""
    for name in sorted(tree.tables):
        try:
            lines = read_lines(root / name)
            if lines.first(PATH) and lines.label_column():
                return f", and {root}/{visible(name)} has labels: give that"
        except DataError:
            continue
    return ""


def _top_step(tree: Tree) -> str:
    return min(step_of(folder.rpartition("/")[2]) or folder for folder in tree.steps)


def _about_steps(root: Path, tree: Tree, step: str | None) -> list[Finding]:
    """A line of its own for the folders of copies that were left out."""
    names = sorted({folder.rpartition("/")[2] for folder in tree.steps})
    left_out = [name for name in names if step_of(name) != step]
    if not left_out:
        return []
    shown = ", ".join(map(visible, left_out))
    sentence = (
        f"{shown} left out as post-processed copies; {root}/{step_of(left_out[0])} reads them. "
        "If they are classes, rename them or give --layout class"
    )
    top = any("/" not in folder for folder in tree.steps)
    return [Finding("warning" if top and not any(map(_side, tree.folders)) else "note", sentence)]


def _empty(tree: Tree, layout: Layout, step: str | None) -> list[Finding]:
    """Folders where others have classes, but without any image below."""
    if step is not None:
        return []
    depth = {len(parts_of(image.folder)) for image in layout.images}
    refused = {reject.path for reject in layout.rejects}
    full = [f"{folder}/" for folder in tree.images]
    empty = [
        folder
        for folder in tree.folders
        if len(parts_of(folder)) in depth
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
        meant = dict(zip(levels, parts, strict=False))
        fold = _checked(root, meant.get("split"), fold_of, "a split (train, val, test)")
        kind = _checked(root, meant.get("kind"), kind_of, "real or generated")
        label = "real" if kind == "real" else meant.get("class") or without_number(meant["kind"])
        last = max(n for n, level in enumerate(levels) if level in ("class", "kind"))
        layout.images += [
            Placed(
                image,
                label,
                fold,
                "/".join(parts[: last + 1]),
                parts[len(levels) :],
                meant.get("prompt", ""),
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
