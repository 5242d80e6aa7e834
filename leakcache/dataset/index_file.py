"""An index given as a table: CSV or Parquet with path, label and, if wished, group and fold."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from leakcache.dataset.records import Reject, relative_to
from leakcache.dataset.split_file import FOLD_NAMES
from leakcache.errors import DataError

SUFFIXES = (".csv", ".parquet")


@dataclass(frozen=True)
class Row:
    """One row: `path` relative to the table's folder or absolute; `fold` None to be cut."""

    path: str
    label: str
    group: str
    fold: str | None


@dataclass(frozen=True)
class Table:
    """The rows whose images are on disk, the others as rejects, and which columns there were."""

    rows: tuple[Row, ...]
    rejects: tuple[Reject, ...]
    columns: frozenset[str]


def read_table(path: Path) -> Table:
    """Read an index file; extra columns are ignored, a missing group is the file's stem.

    Raises DataError where columns are missing, a row has no path, label or known fold, an
    image is listed with two labels (or groups, or folds), or only some rows have a fold.
    """
    lines = list(_parquet_lines(path) if path.suffix.lower() == ".parquet" else _csv_lines(path))
    if not lines:
        raise DataError(f"{path} has no rows: list one image a row as path,label,group,fold")
    rows, rejects = _unique(path, (_row(path, number, line) for number, line in lines))
    _refuse_some_folds(path, rows)
    present = [row for row in rows if (path.parent / row.path).is_file()]
    absent = set(rows).difference(present)
    rejects += [Reject(row.path, f"named in {path.name}, not on disk") for row in absent]
    if not present:
        raise DataError(f"{path} names {len(rows)} images and none is on disk: check its paths")
    return Table(tuple(present), tuple(rejects), frozenset(lines[0][1]))


def _csv_lines(path: Path) -> Iterator[tuple[int, Mapping[str, str]]]:
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.reader(file)
            header = _header(path, next(reader, []))
            for cells in reader:
                if cells:
                    yield reader.line_num, dict(zip(header, cells, strict=False))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{path} cannot be read as CSV ({error}): save it as UTF-8 CSV") from error


def _parquet_lines(path: Path) -> Iterator[tuple[int, Mapping[str, str]]]:
    try:
        import pandas
    except ImportError as error:
        raise _no_parquet(path) from error
    try:
        frame = pandas.read_parquet(path)
    except ImportError as error:
        raise _no_parquet(path) from error
    except (OSError, ValueError) as error:
        raise DataError(f"{path} cannot be read as Parquet ({error}): write it anew") from error
    header = _header(path, [str(column) for column in frame.columns])
    frame = frame.astype(object).where(frame.notna(), "")
    for number, cells in enumerate(frame.itertuples(index=False, name=None), start=1):
        yield number, dict(zip(header, map(str, cells), strict=True))


def _no_parquet(path: Path) -> DataError:
    return DataError(
        f"reading {path} needs pandas and pyarrow: pip install 'leaknet[parquet]', or give a CSV"
    )


def _header(path: Path, names: Iterable[str]) -> list[str]:
    header = [name.strip().casefold() for name in names]
    lacking = [name for name in ("path", "label") if name not in header]
    if lacking:
        raise DataError(
            f"{path} has no column {' and '.join(lacking)}: it needs path,label and may have"
            " group,fold"
        )
    return header


def _row(table: Path, number: int, cells: Mapping[str, str]) -> Row:
    path, label, group, fold = (
        cells.get(name, "").strip() for name in ("path", "label", "group", "fold")
    )
    if not path or not label:
        raise DataError(
            f"{table} row {number} has no {'path' if not path else 'label'}: fill it in"
        )
    known = {"": None, "open": "open", **FOLD_NAMES}
    if fold.casefold() not in known:
        raise DataError(
            f"{table} row {number}: unknown fold {fold!r}, use train, val, test or open"
        )
    path = _located(table.parent, path)
    return Row(path, label, group or PurePosixPath(path).stem, known[fold.casefold()])


def _located(folder: Path, path: str) -> str:
    """The path as records hold it; backslashes are separators unless a file is so named."""
    if "\\" in path and not (folder / path).is_file():
        path = path.replace("\\", "/")
    return relative_to(folder, path, folder)


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
                f"{table} lists {row.path} with two {what}s, {getattr(first, what)} and"
                f" {getattr(row, what)}: keep one"
            )
        rejects.append(Reject(row.path, f"listed twice in {table.name}"))
    return list(seen.values()), rejects


def _refuse_some_folds(table: Path, rows: Iterable[Row]) -> None:
    closed = [row for row in rows if row.fold != "open"]
    without = [row.path for row in closed if row.fold is None]
    if without and len(without) < len(closed):
        raise DataError(
            f"{table} gives {without[0]} no fold but others one: fill the column or leave it out"
        )
