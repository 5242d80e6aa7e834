"""File facts: size, format, coding, metadata and software of an image file, without its pixels.

They are independent of the image content, and each can identify a generator.
"""

from __future__ import annotations

import hashlib
import io
import struct
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import groupby

import numpy as np
from jaxtyping import Int
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
