"""Rows of a table of images: CSV with any separator, TSV, JSON lines or Parquet."""

from __future__ import annotations

import csv
import io
import json
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from leakcache.errors import DataError
from leakcache.names import from_cell, normal_form, visible

SUFFIXES = (".csv", ".tsv", ".jsonl", ".parquet")
SEPARATORS = ",;\t|"

# fmt: off
PATH = ("path", "file_name", "filename", "file", "image_path", "img_path", "filepath", "file_path",
        "image_name", "image", "img", "name")
LABEL = ("label", "class", "generator", "model", "model_name", "generator_name", "class_name",
         "source_model", "labels")
GROUP = ("group", "prompt_id", "prompt", "caption", "text")
FOLD = ("fold", "split", "partition", "set")
# fmt: on
_WHOLE = re.compile(r"(-?\d+)\.0+")
_TWO_KINDS = frozenset(
    {"0", "1", "true", "false", "real", "fake", "ai", "nature", "natural", "human", "generated"}
)

_MISSING = frozenset({"nan", "<na>", "null"})

Line = tuple[int, dict[str, str]]


def value_of(row: Mapping[str, str], column: str | None) -> str:
    """The value of a column, empty where the row lacks it or a data frame wrote it as missing."""
    value = from_cell(row.get(column, "").strip()) if column is not None else ""
    return "" if value.casefold() in _MISSING else value


@dataclass(frozen=True)
class Lines:
    """The rows of one table, each with its number; column names are in lower case."""

    path: Path
    columns: tuple[str, ...]
    rows: tuple[Line, ...]

    def values(self, column: str) -> set[str]:
        """The values of a column that are not empty."""
        return {value for _, row in self.rows if (value := row.get(column, "").strip())}

    def first(self, names: Sequence[str]) -> str | None:
        """The first of these columns that the table has."""
        return next((name for name in names if name in self.columns), None)

    def label_column(self, given: str | None = None) -> str | None:
        """The column of labels.

        Raises DataError where the one that is given is missing, or where `label` only tells
        real from generated and another column names the generators.
        """
        if given is not None:
            return self._given("label", given)
        found = self.first(LABEL)
        others = [name for name in LABEL if name in self.columns and name != found]
        finer = [name for name in others if self._names_classes(name)]
        if found and finer and not self._names_classes(found):
            raise DataError(
                f"{self.path}: column {found} tells real from generated and column {finer[0]} "
                f"names the generators: give --label {finer[0]} or --label {found}"
            )
        return found

    def _names_classes(self, column: str) -> bool:
        """Whether a column has several values, and others than real and generated."""
        values = {value.casefold() for value in self.values(column)}
        return len(values) > 1 and not values <= _TWO_KINDS

    def group_column(self, given: str | None = None) -> str | None:
        """The column of prompt groups, if any."""
        if given is not None:
            return self._given("group", given)
        return next(
            (
                name
                for name in GROUP
                if name in self.columns and (name == "group" or len(self.values(name)) > 1)
            ),
            None,
        )

    def fold_column(self, known: Iterable[str]) -> str | None:
        """The column of folds, if any; one not called `fold` only where it names folds.

        Raises DataError where only some of its values are folds.
        """
        names = set(known)
        for name in FOLD:
            values = self.values(name) if name in self.columns else set()
            others = {value for value in values if value.casefold() not in names}
            if name == "fold" and name in self.columns:
                return name
            if values and not others:
                return name
            if len(values) > len(others):
                raise DataError(
                    f"{self.path}: column {name} holds folds and {visible(min(others))!r}: use "
                    "train, val, test or open alone, or rename the column"
                )
        return None

    def _given(self, what: str, name: str) -> str:
        column = name.strip().casefold()
        if column not in self.columns:
            raise DataError(
                f"{self.path} has no column {visible(name)}: give --{what} with one of "
                f"{', '.join(map(visible, self.columns))}"
            )
        return column


def read_lines(path: Path) -> Lines:
    """Read a table; rows without any value are passed over, whole numbers lose their ".0".

    Raises DataError where it cannot be read.
    """
    reader = {".parquet": _parquet, ".jsonl": _json_lines}.get(path.suffix.lower(), _delimited)
    lines = reader(path)
    full = tuple((number, row) for number, row in lines.rows if any(map(str.strip, row.values())))
    return _without_decimals(replace(lines, rows=full))


def _without_decimals(lines: Lines) -> Lines:
    """Labels and groups 0.0, 1.0, ... as 0, 1, ..., where all of a column are whole."""
    changed = {
        column
        for column in lines.columns
        if column in LABEL + GROUP
        and (values := lines.values(column))
        and all(map(_WHOLE.fullmatch, values))
    }
    if not changed:
        return lines
    rows = tuple(
        (
            number,
            {k: _WHOLE.sub(r"\1", v.strip()) if k in changed else v for k, v in row.items()},
        )
        for number, row in lines.rows
    )
    return replace(lines, rows=rows)


def _delimited(path: Path) -> Lines:
    try:
        data = path.read_bytes()
        utf16 = data.startswith((b"\xff\xfe", b"\xfe\xff"))
        text = data.decode("utf-16" if utf16 else "utf-8-sig")
        declared = re.match(r"(?i)sep=(.)\r?\n", text)  # as spreadsheets write it
        text = text[declared.end() :] if declared else text
        text = text if "\n" in text else text.replace("\r", "\n")
        separator = declared[1] if declared else _separator(text)
        reader = csv.reader(io.StringIO(text, newline=""), delimiter=separator)
        columns = _columns(next(reader, []))
        rows = [(reader.line_num, cells) for cells in reader]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{path} cannot be read as CSV ({error}): save it as UTF-8 CSV") from error
    for number, cells in rows:
        if any(cell.strip() for cell in cells[len(columns) :]):
            raise DataError(
                f"{path} row {number} has {len(cells)} cells for {len(columns)} columns: put "
                "values that hold the separator in double quotes"
            )
    twice = [name for name in columns if name and columns.count(name) > 1]
    if twice:
        raise DataError(f"{path} has two columns {visible(twice[0])}: rename one")
    numbered = tuple((number, dict(zip(columns, cells, strict=False))) for number, cells in rows)
    return Lines(path, columns, numbered)


def _separator(text: str) -> str:
    """The separator at which the first line falls into the most columns that are known."""
    header = text.split("\n", 1)[0]
    known = {*PATH, *LABEL, *GROUP, *FOLD}

    def rank(separator: str) -> tuple[int, int]:
        names = _columns(next(csv.reader([header], delimiter=separator), []))
        return len(known.intersection(names)) * (len(names) > 1), -SEPARATORS.index(separator)

    return max(SEPARATORS, key=rank)


def _columns(names: Iterable[str]) -> tuple[str, ...]:
    return tuple(normal_form(name) for name in names)


def _json_lines(path: Path) -> Lines:
    rows: list[Line] = []
    columns: dict[str, None] = {}
    try:
        # Not splitlines, which also parts at characters that JSON may hold.
        for number, line in enumerate(path.read_text("utf-8-sig").split("\n"), start=1):
            content = json.loads(line) if line.strip() else {}
            if not isinstance(content, dict):
                raise ValueError(f"line {number} is no object")
            row = {normal_form(str(key)): _text(value) for key, value in content.items()}
            columns |= dict.fromkeys(row)
            rows.append((number, row))
    except (OSError, ValueError, RecursionError) as error:
        reason = " ".join(str(error).split())
        raise DataError(f"{path} cannot be read as JSON lines ({reason}): mend it") from error
    return Lines(path, tuple(columns), tuple(rows))


def _text(value: Any) -> str:
    if isinstance(value, float) and math.isnan(value):
        return ""
    return str(value) if isinstance(value, (str, int, float)) else ""


def _parquet(path: Path) -> Lines:
    parquet = _pyarrow(path)
    try:
        schema = parquet.read_schema(path)
        images = image_columns(schema)
        if images:
            raise DataError(
                f"{path} holds images as bytes (column {visible(images[0])}): "
                "give that file as --data, without the files beside it"
            )
        names = [field.name for field in schema if not _nested(field.type)]
        rows = parquet.read_table(path, columns=names).to_pylist()
    except (OSError, ValueError, NotImplementedError) as error:
        if isinstance(error, DataError):
            raise
        reason = " ".join(str(error).split())
        raise DataError(f"{path} cannot be read as Parquet ({reason}): write it anew") from error
    numbered = tuple(
        (number, {normal_form(key): _text(value) for key, value in row.items()})
        for number, row in enumerate(rows, start=1)
    )
    return Lines(path, _columns(names), numbered)


def _pyarrow(path: Path) -> Any:
    try:
        from pyarrow import parquet
    except ImportError as error:
        raise DataError(
            f"reading {path} needs pyarrow: pip install 'leaknet[parquet]', or give a CSV"
        ) from error
    return parquet


def _nested(kind: Any) -> bool:
    return "struct" in str(kind) or "list" in str(kind) or "binary" in str(kind)


def image_columns(schema: Any) -> list[str]:
    """Columns of a Parquet schema that hold files as bytes or as {bytes, path}."""

    def holds_bytes(kind: Any) -> bool:
        text = str(kind)
        return bool(
            re.fullmatch(r"(list<\w+: )?(large_)?binary>?", text)
            or re.search(r"bytes: (large_)?binary", text)
        )

    return [field.name for field in schema if holds_bytes(field.type)]


def parquet_reader(path: Path) -> Any:
    """The module pyarrow.parquet. Raises DataError where it is not installed."""
    return _pyarrow(path)
