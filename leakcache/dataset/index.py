"""Which images there are: one reader for folders of every layout and for tables.

The types live in `leakcache.dataset.records` and may be imported from here.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from leakcache.dataset.archives import archives_below, find_archives, read_archives
from leakcache.dataset.findings import merge_alike
from leakcache.dataset.index_file import (
    Described,
    Table,
    read_metadata,
    read_table,
    refuse_some_folds,
)
from leakcache.dataset.layout import EXPECTED, find_layout
from leakcache.dataset.placed import (
    BY_FOLDER,
    CHOICES,
    ClassFolder,
    Grouping,
    Layout,
    class_folders,
    find_groups,
    find_row_groups,
    named,
)
from leakcache.dataset.records import (
    FOLDS,
    DatasetIndex,
    Finding,
    ImageRecord,
    Reject,
    Split,
    Tree,
    canonical,
    scan,
    step_of,
)
from leakcache.dataset.split_file import assign, cut_folds, find_split, with_photographs
from leakcache.dataset.table_file import SUFFIXES
from leakcache.errors import DataError
from leakcache.names import visible

__all__ = ["FOLDS", "DatasetIndex", "Finding", "ImageRecord", "Reject", "Split", "read_index"]

CUT = "folds cut by group"


def read_index(
    root: Path,
    *,
    seed: int = 0,
    open_set: bool = False,
    layout: str | None = None,
    group: str | None = None,
    label: str | None = None,
    image: str | None = None,
    photographs: str | None = None,
) -> DatasetIndex:
    """Index the images at `root`: a folder of any layout, a table, or archives of images.

    Folds come from the folders, the table's column or from Split.json; without any they are cut
    by group, half training, a fifth validation and three tenths test, seeded and stratified.
    Folders step1 to step3 (post-processed copies) are left out; `root/step1` reads them,
    also where the copies lie inside the sets or classes. With `open_set` every image is
    open: those of WILD's Open_Set or a table's open rows where there are any, else all, and
    a flat folder of images is one class named after the folder.

    Args:
        root: a folder, a CSV, TSV, JSON lines or Parquet file, a tar archive, or several archives
            as in `shards/{0000..0099}.tar`.
        seed: of the fold cut.
        open_set: whether every class is an unknown generator.
        layout: the levels of folders, as in `split/class` (`leakcache.dataset.layout`), instead
            of what their names suggest.
        group: `stem`, `prefix`, `folder` or `file`, or the column of a table that holds prompt
            groups.
        label: the column of a table that holds labels.
        image: the column of images, of Parquet files that have several.
        photographs: folder of photographs, which are added as class `real`; see
            `leakcache.dataset.split_file`.

    Raises:
        DataError: nothing can be read as classes of images, or it can be read in two ways.
    """
    root = Path(os.path.normpath(root.expanduser().absolute()))
    choices = _Choices(seed, open_set, layout, group, label, image)
    reading = {
        name: value
        for name, value in vars(choices).items()
        if name != "open_set" and value not in (None, 0)
    }
    index = _read(root, choices)
    if photographs is not None:
        folder = Path(photographs).expanduser().absolute()
        index = with_photographs(index, folder)
        reading["photographs"] = str(folder)
    return replace(index, source=root, reading=reading)


def _read(root: Path, choices: _Choices) -> DatasetIndex:
    if root.is_dir():
        return _read_folder(root, None, choices)
    if archives := find_archives(root):
        return _read_archives(archives, choices)
    if root.is_file():
        if root.suffix.lower() not in SUFFIXES:
            raise DataError(
                f"{root} is neither a folder nor a CSV or Parquet file: --data takes {EXPECTED}"
            )
        return _read_table(root, choices)
    step = step_of(root.name)
    if step and root.parent.is_dir():
        return _read_folder(root.parent, step, choices)
    raise DataError(f"{root} does not exist: --data takes {EXPECTED}")


@dataclass(frozen=True)
class _Choices:
    seed: int
    open_set: bool
    layout: str | None
    group: str | None
    label: str | None
    image: str | None


@dataclass
class _Reading:
    """What was read so far, and the words for it."""

    root: Path
    records: list[ImageRecord]
    words: list[str]
    rejects: list[Reject] = field(default_factory=list)
    findings: list[Finding] = field(default_factory=list)
    alternatives: str = ""


def _read_folder(root: Path, step: str | None, choices: _Choices) -> DatasetIndex:
    tree = scan(root, step=step, enter_steps=choices.layout is not None)
    if packed := [] if tree.images else archives_below(root):
        return _read_archives(packed, choices, tree.rejects)
    described = _described(root, tree, step, choices)
    if described.labels:
        return _read_described(root, tree, described, choices)
    layout = find_layout(root, tree, step=step, open_only=choices.open_set, levels=choices.layout)
    by_column = choices.group is not None and choices.group not in CHOICES and described.groups
    given = None if by_column else choices.group
    ask = choices.layout is None and any(i.path not in described.groups for i in layout.images)
    grouping = find_groups(root, layout.images, given=given, kinds=layout.kinds, ask=ask)
    groups = grouping.groups
    sentence = grouping.sentence
    if described.groups and given is None:
        groups = groups | described.groups
        sentence = f"prompt groups from {described.sentence}"
    records, merged = merge_alike(
        [ImageRecord(i.path, i.label, groups[i.path], i.fold) for i in layout.images]
    )
    reading = _Reading(root, records, [], layout.rejects, layout.findings + merged)
    words, findings = _folds_of_folder(reading, layout, choices)
    about = [_about_layout(layout, reading.records), *_parts_of_classes(layout, grouping)]
    reading.words = [*about, *words, sentence]
    reading.findings = reading.findings + findings
    other = _other_levels(layout)
    reading.alternatives = f"--layout {other} or --group {grouping.other}"
    return _index(reading, _cut_seed(words, choices))


def _cut_seed(words: Sequence[str], choices: _Choices) -> int | None:
    return choices.seed if any(word.startswith(CUT) for word in words) else None


def _described(root: Path, tree: Tree, step: str | None, choices: _Choices) -> Described:
    """What metadata files say, unless a layout was given or there are none."""
    if choices.layout is not None or step is not None or not tree.metadata:
        return Described()
    group = None if choices.group in CHOICES else choices.group
    return read_metadata(root, tree, label=choices.label, group=group)


def _read_described(
    root: Path, tree: Tree, described: Described, choices: _Choices
) -> DatasetIndex:
    """The images that metadata files label."""
    every = sorted(image for images in tree.images.values() for image in images)
    unnamed = [Reject(i, "no metadata file names it") for i in every if i not in described.labels]
    given = choices.group if choices.group in CHOICES else None
    ask = any(image not in described.groups for image in described.labels)
    grouping = find_row_groups(root, described.labels, given=given, ask=ask)
    groups = grouping.groups | ({} if given else described.groups)
    folds = dict.fromkeys(described.labels, "open") if choices.open_set else described.folds
    lacking = [image for image in described.labels if image not in folds]
    if folds and lacking:
        raise DataError(
            f"{root}: {visible(lacking[0])} has no fold but other images have one: give a column "
            "fold for all images or for none"
        )
    records = [
        ImageRecord(image, label, groups[image], folds.get(image, ""))
        for image, label in sorted(described.labels.items())
    ]
    grouped = [] if described.groups and not given else [grouping.sentence]
    records, merged = merge_alike(records)
    reading = _Reading(
        root,
        records,
        [f"Read from metadata: {described.sentence}"],
        tree.rejects + described.rejects + unnamed,
        alternatives=f"--label COLUMN, --group COLUMN|{grouping.other} or --layout class",
    )
    reading.records, words, findings = _completed(records, choices.seed, "folds as given")
    reading.words += [*words, *grouped]
    reading.findings = merged + findings
    return _index(reading, _cut_seed(words, choices))


def _folds_of_folder(
    reading: _Reading, layout: Layout, choices: _Choices
) -> tuple[list[str], list[Finding]]:
    """Give the records their folds; the words and findings about it."""
    closed = [image for image in layout.images if image.fold != "open"]
    if not closed:
        return [], []
    if all(image.fold for image in closed):
        reading.records, words, findings = _completed(
            reading.records, choices.seed, "folds from the split folders"
        )
        return words, findings
    split = find_split(reading.root)
    if split is None:
        reading.records, words = _cut(reading.records, choices.seed)
        return words, []
    before = Counter(record.label for record in reading.records)
    reading.records, rejects = _follow(split, class_folders(layout), reading.records)
    reading.rejects = reading.rejects + rejects
    gone = sorted(set(before) - {record.label for record in reading.records})
    findings = [
        Finding(
            "error",
            f"class {visible(label)} ends with no image: {split.name} names none of its "
            f"{before[label]}; mend the split or remove the folder",
        )
        for label in gone
    ]
    return [f"folds from {split.name}"], findings


def _completed(
    records: list[ImageRecord], seed: int, words: str
) -> tuple[list[ImageRecord], list[str], list[Finding]]:
    """Given folds as they are; a validation fold is cut from training where there is none."""
    folds = {record.fold for record in records} - {"open"}
    if folds == {"train"}:  # a folder called train beside no other splits nothing
        records = [replace(r, fold="" if r.fold == "train" else r.fold) for r in records]
    if folds in ({"train"}, {""}):
        cut, how = _cut(records, seed)
        return cut, how, []
    if "train" not in folds or "val" in folds:
        return records, [words], []
    train = [(record.group, record.label) for record in records if record.fold == "train"]
    cut_train = cut_folds(train, seed)
    elsewhere = {record.group for record in records if record.fold != "train"}
    changed = [
        replace(r, fold="val")
        if r.fold == "train" and cut_train[r.group] == "val" and r.group not in elsewhere
        else r
        for r in records
    ]
    sentence = (
        f"no validation fold is given: a fifth of train, cut by group with seed {seed}, is val"
    )
    return changed, [words, sentence], [Finding("note", sentence)]


def _follow(
    split: Path, classes: list[ClassFolder], records: list[ImageRecord]
) -> tuple[list[ImageRecord], list[Reject]]:
    """Give the closed records the split's folds; those it does not name become rejects."""
    given = assign(split, classes)
    folds = given.folds | {record.path: "open" for record in records if record.fold}
    unnamed = [r.path for r in records if r.path not in folds]
    rejects = given.rejects + [Reject(path, f"not named in {split.name}") for path in unnamed]
    return [replace(r, fold=folds[r.path]) for r in records if r.path in folds], rejects


def _about_layout(layout: Layout, records: Sequence[ImageRecord]) -> str:
    closed = len({record.label for record in records if record.fold != "open"})
    opened = len({record.label for record in records if record.fold == "open"})
    kind = "WILD" if layout.is_wild else layout.levels
    return f"Read as {kind}: {closed} known and {opened} unknown classes"


def _parts_of_classes(layout: Layout, grouping: Grouping) -> list[str]:
    """Names the folders below the classes that are neither classes nor prompts."""
    parts = {image.inner[0] for image in layout.images if image.inner}
    if not parts or grouping.sentence == BY_FOLDER or layout.is_wild:
        return []
    return [f"the folders {named(parts)} below the classes are parts of them"]


def _other_levels(layout: Layout) -> str:
    options = ["class", "split/class", "class/split", "class/kind", "split/class/kind"]
    options += ["*/class"] * any(image.inner for image in layout.images)
    return "|".join(option for option in options if option != layout.levels)


def _read_table(path: Path, choices: _Choices) -> DatasetIndex:
    column = None if choices.group in CHOICES else choices.group
    table = read_table(path, label=choices.label, group=column)
    return _read_rows(path, path.parent, table, choices, f"index file {path.name}")


def _read_archives(
    archives: Sequence[Path], choices: _Choices, rejects: Sequence[Reject] = ()
) -> DatasetIndex:
    root = Path(os.path.commonpath([path.parent for path in archives]))
    column = None if choices.group in CHOICES else choices.group
    table = read_archives(root, archives, label=choices.label, group=column, image=choices.image)
    if any(path.suffix.lower() == ".parquet" for path in archives) and column == choices.group:
        # Numbers of rows, which stand for the names of files, say nothing about prompts.
        choices = replace(choices, group=None if "group" in table.columns else "file")
    refuse_some_folds(archives[0], table.rows)
    table = replace(table, rejects=(*table.rejects, *rejects))
    names = archives[0].name if len(archives) == 1 else f"{len(archives)} archives"
    return _read_rows(archives[0], root, table, choices, names)


def _read_rows(path: Path, root: Path, table: Table, choices: _Choices, what: str) -> DatasetIndex:
    given, rows = choices.group, table.rows
    if choices.open_set:
        opened = [row for row in rows if row.fold == "open"] or rows
        rows = tuple(replace(row, fold="open") for row in opened)
    records = [ImageRecord(row.path, row.label, row.group, row.fold or "") for row in rows]
    groups = f"groups from its {table.columns.get('group')} column"
    if given in CHOICES or "group" not in table.columns:
        grouping = find_row_groups(path, {r.path: r.label for r in records}, given=given)
        groups = grouping.sentence
        records = [replace(record, group=grouping.groups[record.path]) for record in records]
    records, merged = merge_alike(records)
    _refuse_both(path, records)
    how, findings = [f"folds from its {table.columns.get('fold')} column"], list[Finding]()
    if "fold" not in table.columns or not all(record.fold for record in records):
        words = "folds from columns and names of the archives"
        records, how, findings = _completed(records, choices.seed, words)
    labels = f"labels from its {table.columns['label']} column"
    said = [f"Read as {what}", labels, *how, groups]
    reading = _Reading(root, records, said, list(table.rejects), merged + findings)
    reading.alternatives = f"--label COLUMN or --group COLUMN|{'|'.join(CHOICES)}"
    return _index(reading, _cut_seed(how, choices))


def _refuse_both(table: Path, records: Iterable[ImageRecord]) -> None:
    records = list(records)
    known = {record.label for record in records if record.fold != "open"}
    both = sorted(known & {record.label for record in records if record.fold == "open"})
    if both:
        raise DataError(
            f"{table} has open and known images of {visible(both[0])}: a class is one or the other"
        )


def _cut(records: list[ImageRecord], seed: int) -> tuple[list[ImageRecord], list[str]]:
    """Give a fold to the records that have none, by group; with the words for the layout."""
    closed = [(record.group, record.label) for record in records if not record.fold]
    if not closed:
        return records, []
    folds = cut_folds(closed, seed)
    cut = [r if r.fold else replace(r, fold=folds[r.group]) for r in records]
    return cut, [f"{CUT} 50/20/30 with seed {seed}"]


def _index(reading: _Reading, cut_seed: int | None) -> DatasetIndex:
    ordered = sorted(set(reading.rejects), key=lambda reject: (reject.path, reject.reason))
    layout = (
        f"{'; '.join(reading.words)}. If that is wrong, give {reading.alternatives}, or edit the "
        "index"
    )
    return DatasetIndex(
        reading.root,
        canonical(reading.records),
        tuple(ordered),
        layout,
        tuple(reading.findings),
        cut_seed,
    )
