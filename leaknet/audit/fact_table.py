"""File facts as numbers that a classifier can read, and as words that a reader can."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, TypeVar

import numpy as np
from jaxtyping import Float32

from leaknet.audit.file_facts import FileFacts

WORDS = {
    "width": "width",
    "height": "height",
    "aspect": "aspect ratio",
    "format": "file format",
    "mode": "pixel mode",
    "coding": "coding mode",
    "structure": "order of the file's segments",
    "quantisation": "JPEG quantisation table",
    "quality": "JPEG quality",
    "subsampling": "chroma subsampling",
    "exif": "presence of EXIF data",
    "icc": "presence of a colour profile",
    "xmp": "presence of XMP data",
    "c2pa": "presence of a C2PA manifest",
    "software": "software tag",
    "text_keys": "keys of PNG texts",
    "bytes": "file size",
    "bytes_per_pixel": "bytes per pixel",
}
"""Every fact with its name in words. Where two say the same, the first is named."""

SIZES = frozenset({"bytes", "bytes_per_pixel"})
"""Facts that depend on what the picture shows, even when all files were written alike."""

Value = TypeVar("Value")

_MOST = 32
"""Different values of a text that are told apart; rarer ones count as one."""


@dataclass(frozen=True)
class FactTable:
    """The facts that vary, as columns.

    Attributes:
        matrix: a row an image; numbers as they are, texts one column a value.
        columns: of each fact that varies, its columns, in the order of `WORDS`.
        constant: facts that are the same in all files.
    """

    matrix: Float32[np.ndarray, "image column"]
    columns: Mapping[str, tuple[int, ...]]
    constant: tuple[str, ...]

    def each(
        self, judge: Callable[[Float32[np.ndarray, "image column"]], Value]
    ) -> dict[str, Value]:
        """What `judge` says of each fact's columns; facts that part the images alike share it."""
        known: dict[bytes, Value] = {}
        values = {}
        for fact, columns in self.columns.items():
            block = self.matrix[:, columns]
            parts = _parts(block)
            if parts not in known:
                known[parts] = judge(block)
            values[fact] = known[parts]
        return values


def fact_table(facts: Sequence[FileFacts], *, sizes: bool = True) -> FactTable:
    """Columns of all facts that vary; without `sizes`, those in `SIZES` are left out."""
    encoder = FactEncoder.of(facts, sizes=sizes)
    columns: dict[str, tuple[int, ...]] = {}
    start = 0
    for name, texts in encoder.varying.items():
        end = start + max(1, len(texts))
        columns[name] = tuple(range(start, end))
        start = end
    seen = [name for name in WORDS if sizes or name not in SIZES]
    constant = tuple(name for name in seen if name not in columns)
    return FactTable(encoder(facts), columns, constant)


@dataclass(frozen=True)
class FactEncoder:
    """Which facts vary in some files, and how those become columns for these and other files.

    Attributes:
        varying: by fact, in the order of `WORDS`, the texts that have a column; none for numbers.
    """

    varying: Mapping[str, tuple[str, ...]]

    @classmethod
    def of(cls, facts: Sequence[FileFacts], *, sizes: bool = True) -> FactEncoder:
        """What varies in these files; without `sizes`, the facts in `SIZES` are left out."""
        varying: dict[str, tuple[str, ...]] = {}
        for name in WORDS:
            counts: Counter[Any] = Counter(_value(fact, name) for fact in facts)
            if len(counts) > 1 and (sizes or name not in SIZES):
                common = [value for value, _ in counts.most_common(_MOST)]
                varying[name] = tuple(common) if isinstance(common[0], str) else ()
        return cls(varying)

    def __call__(self, facts: Sequence[FileFacts]) -> Float32[np.ndarray, "image column"]:
        """One column for numbers, one a text for texts; one no longer seen has all zeros."""
        blocks = [np.zeros((len(facts), 0), np.float32)]
        for name, texts in self.varying.items():
            values = [_value(fact, name) for fact in facts]
            rows = [[value == t for t in texts] for value in values] if texts else values
            blocks.append(np.array(rows, np.float32).reshape(len(facts), -1))
        return np.concatenate(blocks, axis=1)


def _parts(block: Float32[np.ndarray, "image column"]) -> bytes:
    """Which images have equal rows: equal for two blocks that part the images alike."""
    _, first, part = np.unique(block, axis=0, return_index=True, return_inverse=True)
    return np.argsort(np.argsort(first))[part].tobytes()


def _value(facts: FileFacts, name: str) -> float | int | str:
    if name == "aspect":
        return facts.width / facts.height
    if name == "bytes_per_pixel":
        return facts.bytes / (facts.width * facts.height)
    value: float | int | str = getattr(facts, name)
    return value


# A fact without words would never be looked at.
assert {field.name for field in fields(FileFacts)} <= WORDS.keys()
