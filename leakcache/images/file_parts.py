"""Parts of image files: segments, chunks, metadata, and faults that are mended."""

from __future__ import annotations

import struct
import zlib
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


PNG = b"\x89PNG\r\n\x1a\n"
TEXT_LIMIT = 2**20
"""Longest text of a PNG file that is kept, uncompressed, in bytes; Pillow refuses more."""
TOTAL_LIMIT = 2**24
"""Most text of one file that is kept."""
JPEG_END = b"\xff\xd9"
# What a decoder takes for the missing part of a JPEG file, where there is one.
_FILLER = b"\xaa\x35\x5a\x91" * 16


def mend_png(data: bytes) -> bytes:
    """A PNG file without its colour profile, long texts and chunks of metadata that are damaged.

    Only ancillary chunks are left out, none of which decides a pixel value: profiles are ignored,
    and text of more than a megabyte, which workflow tools write, would be refused. The bytes are
    the same where nothing is left out.
    """
    if not data.startswith(PNG):
        return data
    kept, total, start = [data[:8]], 0, 8
    for kind, begin, end in _chunks(data):
        text = _text_length(kind, data[begin + 8 : end - 4])
        total += text
        broken = kind[0] & 32 and not _sum_is_right(data[begin:end])
        if kind == b"iCCP" or broken or text > TEXT_LIMIT or total > TOTAL_LIMIT:
            kept.append(data[start:begin])
            start = end
            total -= text
    return b"".join([*kept, data[start:]]) if start > 8 else data


def _chunks(data: bytes) -> Iterator[tuple[bytes, int, int]]:
    """Type, begin and end of each whole chunk, up to the end of the image."""
    begin = 8
    while begin + 12 <= len(data):
        length = int(struct.unpack_from(">I", data, begin)[0])
        kind, end = data[begin + 4 : begin + 8], begin + 12 + length
        if end > len(data) or kind == b"IEND":
            return
        yield kind, begin, end
        begin = end


def _sum_is_right(chunk: bytes) -> bool:
    return zlib.crc32(chunk[4:-4]) == int(struct.unpack(">I", chunk[-4:])[0])


def _text_length(kind: bytes, content: bytes) -> int:
    """Bytes of a chunk's text once it is uncompressed, counted up to just above the limit."""
    if kind == b"tEXt":
        return len(content)
    if kind not in (b"zTXt", b"iTXt"):
        return 0
    key, _, rest = content.partition(b"\0")
    if kind == b"iTXt":
        if rest[:1] != b"\x01":
            return len(content)
        rest = rest[2:].split(b"\0", 2)[-1]
    else:
        rest = rest[1:]
    try:
        return len(key) + len(zlib.decompressobj().decompress(rest, TEXT_LIMIT + 1))
    except zlib.error:
        return TEXT_LIMIT + 1


def jpeg_endings(data: bytes) -> tuple[bytes, bytes] | None:
    """A JPEG file that lacks its end marker, ended in two ways; None for any other file.

    Where only the marker is missing, both decode to the same pixels; where a part of the image
    is missing, too, they differ, as the second has other bytes in its place.
    """
    if not data.startswith(b"\xff\xd8") or data.endswith(JPEG_END):
        return None
    body = data.removesuffix(b"\xff")  # the first half of the marker
    return body + JPEG_END, body + _FILLER + JPEG_END
