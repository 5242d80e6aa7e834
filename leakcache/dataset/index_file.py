"""An index as a table of path, label, group and fold: read as given, written unless edited."""

from __future__ import annotations

import hashlib
import os
import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from leakcache.dataset.records import FOLD_NAMES, DatasetIndex, Reject, relative_to
from leakcache.dataset.table_file import PATH, Lines, read_lines, value_of
from leakcache.errors import DataError
from leakcache.files import replace_file, write_text
from leakcache.images.archive import image_exists
from leakcache.names import visible, without_braces

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
