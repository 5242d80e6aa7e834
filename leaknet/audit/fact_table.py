"""File facts as columns for a classifier, with their names for the reader."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, TypeVar

import numpy as np
from jaxtyping import Float32

from leaknet.audit.file_facts import FileFacts

FACT_NAMES = {
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
"""Name of every fact for the reader. Of equivalent facts, the first is reported."""

SIZES = frozenset({"bytes", "bytes_per_pixel"})
"""Facts that depend on the image content even when all files have the same coding."""

Value = TypeVar("Value")

_MAX_VALUES = 32
"""Distinct values of a text with a column of their own; rarer ones have none."""


@dataclass(frozen=True)
class FactTable:
    """The facts that vary, as columns.

    Attributes:
        matrix: one row per image; one column per number, one column per value of a text.
        columns: of each fact that varies, in the order of `FACT_NAMES`.
    """

    matrix: Float32[np.ndarray, "image column"]
    columns: Mapping[str, tuple[int, ...]]

    def evaluate_each(
        self, evaluate: Callable[[Float32[np.ndarray, "image column"]], Value]
    ) -> dict[str, Value]:
        """Result of `evaluate` on each fact's columns; computed once for equivalent facts."""
        known: dict[bytes, Value] = {}
        values = {}
        for fact, columns in self.columns.items():
            block = self.matrix[:, columns]
            key = _partition(block)
            if key not in known:
                known[key] = evaluate(block)
            values[fact] = known[key]
        return values


def fact_table(facts: Sequence[FileFacts], *, sizes: bool = True) -> FactTable:
    """Columns of all facts that vary; without `sizes`, those in `SIZES` are omitted."""
    encoder = FactEncoder.of(facts, sizes=sizes)
    columns: dict[str, tuple[int, ...]] = {}
    start = 0
    for name, texts in encoder.varying.items():
        end = start + max(1, len(texts))
        columns[name] = tuple(range(start, end))
        start = end
    return FactTable(encoder(facts), columns)


@dataclass(frozen=True)
class FactEncoder:
    """Encodes the facts that vary in a set of files as columns, for these and other files.

    Attributes:
        varying: facts in the order of `FACT_NAMES`, each with the texts that have a column; empty
            for numbers.
    """

    varying: Mapping[str, tuple[str, ...]]

    @classmethod
    def of(cls, facts: Sequence[FileFacts], *, sizes: bool = True) -> FactEncoder:
        """The encoder of these files; without `sizes`, the facts in `SIZES` are omitted."""
        varying: dict[str, tuple[str, ...]] = {}
        for name in FACT_NAMES:
            counts: Counter[Any] = Counter(_value(fact, name) for fact in facts)
            if len(counts) > 1 and (sizes or name not in SIZES):
                common = [value for value, _ in counts.most_common(_MAX_VALUES)]
                varying[name] = tuple(common) if isinstance(common[0], str) else ()
        return cls(varying)

    def __call__(self, facts: Sequence[FileFacts]) -> Float32[np.ndarray, "image column"]:
        """One column per number, one-hot columns per text; zeros for a text without a column."""
        blocks = [np.zeros((len(facts), 0), np.float32)]
        for name, texts in self.varying.items():
            values = [_value(fact, name) for fact in facts]
            rows = [[value == t for t in texts] for value in values] if texts else values
            blocks.append(np.array(rows, np.float32).reshape(len(facts), -1))
        return np.concatenate(blocks, axis=1)


def _partition(block: Float32[np.ndarray, "image column"]) -> bytes:
    """Key of the partition of images into equal rows; equivalent facts have equal keys."""
    _, first, part = np.unique(block, axis=0, return_index=True, return_inverse=True)
    return np.argsort(np.argsort(first))[part].tobytes()


def _value(facts: FileFacts, name: str) -> float | int | str:
    if name == "aspect":
        return facts.width / facts.height
    if name == "bytes_per_pixel":
        return facts.bytes / (facts.width * facts.height)
    value: float | int | str = getattr(facts, name)
    return value


# A fact without a name would not be evaluated.
assert {field.name for field in fields(FileFacts)} <= FACT_NAMES.keys()
