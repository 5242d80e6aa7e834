"""Parts of an image file: segments of JPEG, chunks of PNG and WebP, and the metadata in them."""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator
from typing import NamedTuple

_XMP = b"http://ns.adobe.com/xap/1.0/\0"
_XMP_TEXT = b"XML:com.adobe.xmp\0"
_PNG_FRAME = 12  # length, name and checksum of a PNG chunk
_ALONE = frozenset(range(0xD0, 0xD8)) | {0x01}  # JPEG markers without a length
_START_OF_SCAN = 0xDA
_TABLES = {0xC4: "DHT", 0xC8: "JPG", 0xCC: "DAC", 0xDB: "DQT", 0xDD: "DRI"}
_MARKERS = _TABLES | {_START_OF_SCAN: "SOS", 0xFE: "COM"}


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


def exif_of(parts: Iterable[Part]) -> bytes:
    """The EXIF block with its header; empty without one."""
    for name, content in parts:
        if name == "APP1" and content.startswith(b"Exif\0\0"):
            return content
        if name in ("eXIf", "EXIF"):
            return content if content.startswith(b"Exif") else b"Exif\0\0" + content
    return b""


def xmp_of(parts: Iterable[Part]) -> bytes | None:
    """The XMP packet, which may be compressed in a PNG file; None without one."""
    for name, content in parts:
        if name == "APP1" and content.startswith(_XMP):
            return content.removeprefix(_XMP)
        if name == "XMP":
            return content
        if name == "iTXt" and content.startswith(_XMP_TEXT):
            return content.removeprefix(_XMP_TEXT)
    return None


def has_c2pa(data: bytes, parts: list[Part]) -> bool:
    """Whether there are content credentials, at the position that C2PA specifies per format."""
    if not parts:
        return b"jumb" in data and b"c2pa" in data
    return any(
        (name == "APP11" and b"jumb" in content and b"c2pa" in content) or name in ("caBX", "C2PA")
        for name, content in parts
    )
