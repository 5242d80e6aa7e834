"""Faults of a file that no viewer minds, mended before it is decoded: pixels are never altered."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator

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
