"""Tables of images: an index, read as given and written unless edited; metadata files."""

from __future__ import annotations

import hashlib
import os
import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from leakcache.dataset.placed import fold_of
from leakcache.dataset.records import FOLD_NAMES, DatasetIndex, Reject, Tree, relative_to
from leakcache.dataset.table_file import PATH, Lines, read_lines, value_of
from leakcache.errors import DataError
from leakcache.files import replace_file, write_text
from leakcache.images.archive import image_exists
from leakcache.names import normal_form, visible, without_braces

_KNOWN_FOLDS = {"": None, "open": "open", **FOLD_NAMES}


@dataclass(frozen=True)
class Row:
    """One row: `path` relative to the table's folder or absolute; `fold` None to be cut."""

    path: str
    label: str
    group: str
    fold: str | None


@dataclass(frozen=True)
class Table:
    """The rows whose images are on disk, the others as rejects, and the columns that were used.

    `columns` maps label, group and fold to the table's own names, without those it lacks.
    """

    rows: tuple[Row, ...]
    rejects: tuple[Reject, ...]
    columns: dict[str, str]


def read_table(path: Path, *, label: str | None = None, group: str | None = None) -> Table:
    """Read an index file; extra columns are ignored, a missing group is the file's stem.

    `label` and `group` name the columns to take where the usual names are not meant.

    Raises DataError where columns are missing, a row has no path, label or known fold, an
    image is listed with two labels (or groups, or folds), or only some rows have a fold.
    """
    lines = read_lines(path)
    columns = _columns(lines, label, group)
    if not lines.rows:
        raise DataError(f"{path} has no rows: list one image a row as path,label,group,fold")
    rows, rejects = _unique(path, (_row(path, number, row, columns) for number, row in lines.rows))
    refuse_some_folds(path, rows)
    present = [row for row in rows if image_exists(path.parent / row.path)]
    absent = set(rows).difference(present)
    rejects += [Reject(row.path, f"named in {path.name}, not on disk") for row in absent]
    if not present:
        raise DataError(
            f"{path} names {len(rows)} images and none is on disk, {visible(rows[0].path)} for "
            "one: check its paths"
        )
    return Table(tuple(present), tuple(rejects), columns)


def _columns(lines: Lines, label: str | None, group: str | None) -> dict[str, str]:
    found = {
        "path": lines.first(PATH),
        "label": lines.label_column(label),
        "group": lines.group_column(group),
        "fold": lines.fold_column(_KNOWN_FOLDS),
    }
    lacking = [name for name in ("path", "label") if found[name] is None]
    if lacking:
        raise DataError(
            f"{lines.path} has no column {' and '.join(lacking)}: it needs path,label and may "
            f"have group,fold; it has {', '.join(map(visible, lines.columns)) or 'none'}"
        )
    return {name: column for name, column in found.items() if column is not None}


def _row(table: Path, number: int, cells: dict[str, str], columns: dict[str, str]) -> Row:
    def value(name: str) -> str:
        return value_of(cells, columns.get(name))

    path, label = cells.get(columns["path"], ""), value("label")
    if not path.strip() or not label:
        what = "label" if path.strip() else "path"
        raise DataError(f"{table} row {number} has no {what}: fill it in")
    if path.startswith(("b'", 'b"')):
        raise DataError(
            f"{table} row {number}: the path is the content of a file ({path[:12]}...): give "
            "the images as files, or the original Parquet file as --data"
        )
    fold = value("fold").casefold()
    if fold not in _KNOWN_FOLDS:
        raise DataError(
            f"{table} row {number}: unknown fold {visible(fold)!r}, use train, val, test or open"
        )
    path = _located(table.parent, path)
    return Row(path, label, value("group") or PurePosixPath(path).stem, _KNOWN_FOLDS[fold])


def _located(folder: Path, path: str) -> str:
    """The path as records hold it; white space, backslashes and Unicode forms may be a name's."""
    plain = path.strip().replace("\\", "/")
    forms = (unicodedata.normalize(form, plain) for form in ("NFC", "NFD"))
    for candidate in (path, path.strip(), plain, *forms):
        if "\0" in candidate or len(candidate) > 4096:
            raise DataError(f"{folder}: {visible(candidate[:40])!r}... cannot be a path: mend it")
        if image_exists(folder / candidate):
            return relative_to(folder, candidate, folder)
    return relative_to(folder, plain, folder)


def _unique(table: Path, rows: Iterable[Row]) -> tuple[list[Row], list[Reject]]:
    seen: dict[str, Row] = {}
    rejects = []
    for row in rows:
        first = seen.setdefault(row.path, row)
        if first is row:
            continue
        if first != row:
            what = next(
                n for n in ("label", "group", "fold") if getattr(first, n) != getattr(row, n)
            )
            raise DataError(
                f"{table} lists {visible(row.path)} with two {what}s, "
                f"{visible(str(getattr(first, what)))} and "
                f"{visible(str(getattr(row, what)))}: keep one"
            )
        rejects.append(Reject(row.path, f"listed twice in {table.name}"))
    return list(seen.values()), rejects


def refuse_some_folds(table: Path, rows: Iterable[Row]) -> None:
    """Refuse a table of which only some known images have a fold; raises DataError."""
    closed = [row for row in rows if row.fold != "open"]
    without = [row.path for row in closed if row.fold is None]
    if without and len(without) < len(closed):
        raise DataError(
            f"{table} gives {visible(without[0])} no fold but others one: fill the column or "
            "leave it out"
        )


def default_name(root: Path) -> str:
    """A file name for the index of `root`; roots of one name have different ones."""
    source = hashlib.sha256(os.fsencode(root.resolve())).hexdigest()[:6]
    return f"{without_braces(root.name) or 'root'}-{source}.index.csv"


def save_index(index: DatasetIndex, path: Path) -> bool:
    """Write the index as CSV, unless the file there was edited; whether it was written.

    A hidden file beside it holds the hash of what was written last.

    Raises:
        DataError: it cannot be written.
    """
    folder = Path(os.path.normpath(path.absolute().parent))
    table = index.as_csv(folder).encode("utf-8")
    seal = path.with_name(f".{path.name}.sha256")
    try:
        if path.exists() and not _is_ours(path.read_bytes(), table, seal):
            return False
        folder.mkdir(parents=True, exist_ok=True)
        replace_file(path, lambda file: file.write_bytes(table))
        write_text(seal, f"{hashlib.sha256(table).hexdigest()}  {path.name}\n")
    except OSError as error:
        raise DataError(
            f"{path} cannot be written ({error.strerror}): choose another file with --out"
        ) from error
    return True


def _is_ours(there: bytes, new: bytes, seal: Path) -> bool:
    if there == new:
        return True
    written = seal.read_text("utf-8", errors="replace") if seal.is_file() else ""
    return written.split(" ")[0] == hashlib.sha256(there).hexdigest()


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
                value = _KNOWN_FOLDS.get(value.casefold()) or _fold_above(image)
            if what == "label" and columns[what] and not value:
                raise DataError(f"{table.path} row {number} has no label: fill it in")
            if value and found.setdefault(image, value) != value:
                raise DataError(
                    f"{table.path} gives {image} two {what}s, {found[image]} and {value}: keep one"
                )


def _fold_above(image: str) -> str:
    """The fold of the outermost split folder above an image; empty where there is none."""
    return next((fold for part in image.split("/")[:-1] if (fold := fold_of(part))), "")
