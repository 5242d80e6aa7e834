"""The parts a file is made of, before any pixel: JPEG segments, PNG and WebP chunks.

A damaged file yields the parts up to the damage; whoever decodes it says what is wrong.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator
from itertools import groupby
from typing import NamedTuple

# A PNG chunk's length is followed by its name and, after the content, by a checksum.
_PNG_FRAME = 12
_ALONE = frozenset(range(0xD0, 0xD8)) | {0x01}  # JPEG markers without a length
_START_OF_SCAN = 0xDA
_TABLES = {0xC4: "DHT", 0xC8: "JPG", 0xCC: "DAC", 0xDB: "DQT", 0xDD: "DRI"}
_MARKERS = _TABLES | {_START_OF_SCAN: "SOS", 0xFE: "COM"}
_PIXELS = ("IDAT", "ANMF")


class Part(NamedTuple):
    """One segment or chunk: its name, as the format's specification writes it, and its bytes."""

    name: str
    content: bytes


def read_parts(data: bytes) -> list[Part]:
    """The parts of a JPEG (up to its first scan), PNG or WebP file; empty for other formats."""
    if data.startswith(b"\xff\xd8"):
        return list(_jpeg(data))
    if data.startswith(b"\x89PNG\r\n\x1a\n"):
        return list(_png(data))
    if data.startswith(b"RIFF") and data[8:12] == b"WEBP":
        return list(_webp(data))
    return []


def order(parts: Iterable[Part]) -> str:
    """Names of the parts in their order, with the owner of APPn segments.

    Which program wrote a file often shows in this alone. Runs of pixel data, whose number
    follows from the size, count as one part.
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
        # Pixels are not copied: their first bytes say how they were packed.
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
