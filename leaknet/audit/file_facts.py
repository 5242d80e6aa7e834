"""File facts: size, format, coding, metadata and software of an image file, without its pixels.

They are independent of the image content, and each can identify a generator.
"""

from __future__ import annotations

import hashlib
import io
import struct
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import groupby
from typing import NamedTuple

import numpy as np
from jaxtyping import Int
from PIL import Image
from PIL.JpegImagePlugin import JpegImageFile, get_sampling

from leakcache.images.decode import opened

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


_PNG_FRAME = 12  # length, name and checksum of a PNG chunk
_ALONE = frozenset(range(0xD0, 0xD8)) | {0x01}  # JPEG markers without a length
_START_OF_SCAN = 0xDA
_TABLES = {0xC4: "DHT", 0xC8: "JPG", 0xCC: "DAC", 0xDB: "DQT", 0xDD: "DRI"}
_MARKERS = _TABLES | {_START_OF_SCAN: "SOS", 0xFE: "COM"}
_PIXELS = ("IDAT", "ANMF")


class Part(NamedTuple):
    """One segment or chunk: its name in the format's specification, and its bytes."""

    name: str
    content: bytes


def read_parts(data: bytes) -> list[Part]:
    """Parts of a JPEG (up to its first scan), PNG or WebP file; empty for other formats.

    A damaged file yields the parts before the damage.
    """
    if data.startswith(b"\xff\xd8"):
        return list(_jpeg(data))
    if data.startswith(b"\x89PNG\r\n\x1a\n"):
        return list(_png(data))
    if data.startswith(b"RIFF") and data[8:12] == b"WEBP":
        return list(_webp(data))
    return []


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


def _jpeg(data: bytes) -> Iterator[Part]:
    at = 2
    while at + 4 <= len(data) and data[at] == 0xFF:
        marker = data[at + 1]
        if marker == 0xFF or marker in _ALONE:  # fill bytes may stand before a marker
            at += 1 if marker == 0xFF else 2
            continue
        (length,) = struct.unpack_from(">H", data, at + 2)
        yield Part(_marker(marker), data[at + 4 : at + 2 + length])
        if marker == _START_OF_SCAN:
            return
        at += 2 + length


def _marker(code: int) -> str:
    if code in _MARKERS:
        return _MARKERS[code]
    if 0xC0 <= code <= 0xCF:
        return f"SOF{code - 0xC0}"
    return f"APP{code - 0xE0}" if 0xE0 <= code <= 0xEF else f"{code:02X}"


def _png(data: bytes) -> Iterator[Part]:
    at = 8
    while at + _PNG_FRAME <= len(data):
        (length,) = struct.unpack_from(">I", data, at)
        name = data[at + 4 : at + 8].decode("latin-1")
        # The first two bytes of pixel data hold the compression level.
        yield Part(name, data[at + 8 : at + 8 + (2 if name == "IDAT" else length)])
        at += _PNG_FRAME + length


def _webp(data: bytes) -> Iterator[Part]:
    at = 12
    while at + 8 <= len(data):
        name = data[at : at + 4].decode("latin-1")
        (length,) = struct.unpack_from("<I", data, at + 4)
        pixels = name.startswith("VP8") and name != "VP8X"
        yield Part(name.strip(), data[at + 8 : at + 8 + (0 if pixels else length)])
        at += 8 + length + length % 2


# EXIF tags: maker and model of a camera, and the program that wrote the file.
_WRITERS = (0x010F, 0x0110, 0x0131)
_EXIF = 0x8769
_MALFORMED = (SyntaxError, ValueError, OSError, LookupError, TypeError, struct.error, Warning)
_SAMPLING = {0: "4:4:4", 1: "4:2:2", 2: "4:2:0"}
_XMP = b"http://ns.adobe.com/xap/1.0/\0"
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
            exif="exif" in image.info or bool(_exif(parts)) or bool(_tags(image, parts)),
            icc="icc_profile" in image.info or _holds(parts, "iCCP", "ICCP"),
            xmp="xmp" in image.info or _has_xmp(parts),
            c2pa=_has_c2pa(data, parts),
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


def _exif(parts: Iterable[Part]) -> bytes:
    for name, content in parts:
        if name == "APP1" and content.startswith(b"Exif\0\0"):
            return content
        if name in ("eXIf", "EXIF"):
            return content if content.startswith(b"Exif") else b"Exif\0\0" + content
    return b""


def _has_xmp(parts: Iterable[Part]) -> bool:
    return any(
        (name == "APP1" and content.startswith(_XMP))
        or name == "XMP"
        or (name == "iTXt" and content.startswith(b"XML:com.adobe.xmp\0"))
        for name, content in parts
    )


def _has_c2pa(data: bytes, parts: list[Part]) -> bool:
    """Whether there are content credentials, at the position that C2PA specifies per format."""
    if not parts:
        return b"jumb" in data and b"c2pa" in data
    return any(
        (name == "APP11" and b"jumb" in content and b"c2pa" in content) or name in ("caBX", "C2PA")
        for name, content in parts
    )


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
            exif.load(_exif(parts) or image.info.get("exif", b""))
        return {tag: exif[tag] for tag in (*_WRITERS, _EXIF) if tag in exif}
    except _MALFORMED:
        return {}


def _key(part: Part) -> str:
    return part.content.split(b"\0", 1)[0].decode("latin-1")[:_SHOWN]
