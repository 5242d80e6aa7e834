"""File facts: size, format, coding, metadata and software of an image file, without its pixels.

They are independent of the image content, and each can identify a generator.
"""

from __future__ import annotations

import hashlib
import io
import struct
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from functools import cache
from itertools import groupby
from typing import Any, TypeVar

import numpy as np
from jaxtyping import Float32, Int
from PIL import Image
from PIL.JpegImagePlugin import JpegImageFile, get_sampling

from leakcache.images.decode import opened
from leakcache.images.file_parts import Part, exif_of, has_c2pa, read_parts, xmp_of

Tables = Mapping[int, Sequence[int]]


def fingerprint(tables: Tables) -> str:
    """A short hash of all quantisation tables."""
    words = repr([(key, list(tables[key])) for key in sorted(tables)])
    return hashlib.sha256(words.encode()).hexdigest()[:12]


def quality(tables: Tables) -> int:
    """Libjpeg quality, 1 to 100, with the nearest luminance table; exact for files by libjpeg."""
    distance = np.abs(_luminance() - np.asarray(tables[min(tables)])).sum(axis=1)
    return int(distance.argmin()) + 1


@cache
def _luminance() -> Int[np.ndarray, "quality coefficient"]:
    """Luminance tables of quality 1 to 100, read from files written by libjpeg."""
    return np.array([_table(q) for q in range(1, 101)])


def _table(quality: int) -> Sequence[int]:
    buffer = io.BytesIO()
    Image.new("L", (8, 8)).save(buffer, "JPEG", quality=quality)
    with JpegImageFile(io.BytesIO(buffer.getvalue())) as image:
        return list(image.quantization[0])


_PIXELS = ("IDAT", "ANMF")


def order(parts: Iterable[Part]) -> str:
    """Names of the parts in order, with the owner of APPn segments; it often identifies the writer.

    A run of pixel data counts as one part, since its length depends on the size.
    """
    names = [f"{p.name}:{_owner(p)}" if p.name.startswith("APP") else p.name for p in parts]
    runs = [(name, len(list(run))) for name, run in groupby(names)]
    return " ".join(" ".join([n] * (1 if n in _PIXELS else count)) for n, count in runs)


def _owner(part: Part) -> str:
    word = part.content.split(b"\0", 1)[0][:40]
    return word.decode("ascii", "replace").rstrip("/").rsplit("/", 1)[-1]


# EXIF tags: maker and model of a camera, and the program that wrote the file.
_WRITERS = (0x010F, 0x0110, 0x0131)
_EXIF = 0x8769
_MALFORMED = (SyntaxError, ValueError, OSError, LookupError, TypeError, struct.error, Warning)
_SAMPLING = {0: "4:4:4", 1: "4:2:2", 2: "4:2:0"}
_TEXT = ("tEXt", "zTXt", "iTXt")
_SHOWN = 80
"""Largest number of characters kept of a text in a file."""


@dataclass(frozen=True)
class FileFacts:
    """Facts of one file; empty text or 0 where the format has no such field.

    Attributes:
        width, height: in pixels, before EXIF rotation.
        format, mode: Pillow's names of the file format and of the pixel mode.
        bytes: length of the file.
        quantisation: hash of the JPEG tables.
        quality: nearest libjpeg quality, 1 to 100.
        subsampling: of JPEG chroma.
        coding: progressive, interlaced, bit depth, lossless, compression.
        structure: order of the file's segments or chunks.
        exif, icc, xmp, c2pa: whether the file has such metadata.
        software: camera and program from EXIF, a comment or a PNG text.
        text_keys: keys of PNG texts; several image generators store prompts there.
    """

    width: int
    height: int
    format: str
    mode: str
    bytes: int
    quantisation: str
    quality: int
    subsampling: str
    coding: str
    structure: str
    exif: bool
    icc: bool
    xmp: bool
    c2pa: bool
    software: str
    text_keys: str


def read_facts(data: bytes) -> FileFacts:
    """Facts of one file's bytes; raises ImageError if they are not an image."""
    parts = read_parts(data)
    with opened(data) as image:
        tables = image.quantization if isinstance(image, JpegImageFile) else {}
        return FileFacts(
            width=image.width,
            height=image.height,
            format=image.format or "",
            mode=image.mode,
            bytes=len(data),
            quantisation=fingerprint(tables) if tables else "",
            quality=quality(tables) if tables else 0,
            subsampling=_subsampling(image),
            coding=_coding(image, parts),
            structure=order(parts),
            exif="exif" in image.info or bool(exif_of(parts)) or bool(_tags(image, parts)),
            icc="icc_profile" in image.info or _holds(parts, "iCCP", "ICCP"),
            xmp="xmp" in image.info or xmp_of(parts) is not None,
            c2pa=has_c2pa(data, parts),
            software=_software(image, parts),
            text_keys=" ".join(sorted({_key(p) for p in parts if p.name in _TEXT})),
        )


def _subsampling(image: Image.Image) -> str:
    if not isinstance(image, JpegImageFile):
        return ""
    return _SAMPLING.get(get_sampling(image), "other")


def _coding(image: Image.Image, parts: Iterable[Part]) -> str:
    words = [str(image.info[key]) for key in ("compression",) if key in image.info]
    for name, content in parts:
        if name.startswith("SOF") or name in ("VP8", "VP8L"):
            words.append({"SOF0": "baseline", "SOF2": "progressive"}.get(name, name))
        elif name == "IHDR" and len(content) >= 13:
            words.append(f"{content[8]} bit, type {content[9]}" + ", interlaced" * content[12])
        elif name == "IDAT" and len(content) >= 2:
            words.append(f"zlib level {content[1] >> 6}")
            break
    return ", ".join(words)


def _holds(parts: Iterable[Part], *names: str) -> bool:
    return any(part.name in names for part in parts)


def _software(image: Image.Image, parts: list[Part]) -> str:
    tags = _tags(image, parts)
    words = [str(tags[tag]) for tag in _WRITERS if tag in tags]
    for name, content in parts:
        if name == "COM":
            words.append(content.decode("latin-1"))
        elif name == "tEXt" and content.startswith(b"Software\0"):
            words.append(content.split(b"\0", 1)[1].decode("latin-1"))
    return "; ".join(" ".join(word.split())[:_SHOWN] for word in words if word.strip(" \0"))


def _tags(image: Image.Image, parts: list[Part]) -> Mapping[int, object]:
    """EXIF tags, none if they are damaged. A TIFF file itself consists of such tags."""
    exif = Image.Exif()
    try:
        if image.format == "TIFF":
            exif = image.getexif()
        else:
            exif.load(exif_of(parts) or image.info.get("exif", b""))
        return {tag: exif[tag] for tag in (*_WRITERS, _EXIF) if tag in exif}
    except _MALFORMED:
        return {}


def _key(part: Part) -> str:
    return part.content.split(b"\0", 1)[0].decode("latin-1")[:_SHOWN]


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
