"""Damaged image files: sound files of every format, altered in their structure."""

from __future__ import annotations

import io
import random
import struct
import zlib
from collections.abc import Callable
from functools import lru_cache

import numpy as np
from PIL import Image, features

NUMBERS = (0, 1, 2, 7, 255, 256, 4096, 30000, 65535, 65536, 2**24, 2**31 - 1, 2**31, 2**32 - 1)
"""Lengths and dimensions that go wrong in decoders."""

Mutation = Callable[[bytearray, random.Random], bytes]


@lru_cache
def sound_files() -> dict[str, bytes]:
    """One small file of each kind, by a name that begins with its format."""
    generator = np.random.default_rng(0)
    coarse = Image.fromarray(generator.integers(0, 256, (5, 7, 3), np.uint8))
    rgb = coarse.resize((96, 64), Image.Resampling.BICUBIC)
    alpha = rgb.convert("RGBA")
    alpha.putalpha(Image.fromarray(generator.integers(0, 256, (64, 96), np.uint8)))
    grey16 = Image.fromarray(generator.integers(0, 65536, (64, 96), np.uint16))
    real = Image.fromarray(generator.random((64, 96), np.float32))
    frames = [rgb, rgb.transpose(Image.Transpose.FLIP_LEFT_RIGHT)]
    exif = Image.Exif()
    exif[0x0112], exif[0x010F] = 6, "maker"
    made = {
        "png rgb": _saved(rgb, "PNG"),
        "png rgba": _saved(alpha, "PNG"),
        "png palette": _saved(rgb.quantize(16), "PNG", transparency=3),
        "png grey16": _saved(grey16, "PNG"),
        "png rgb16": rgb16_png(generator),
        "png text": _saved(rgb, "PNG", pnginfo=_texts(), icc_profile=b"profile" * 9),
        "jpeg baseline": _saved(rgb, "JPEG", quality=80, exif=exif.tobytes()),
        "jpeg progressive": _saved(rgb, "JPEG", progressive=True),
        "jpeg cmyk": _saved(rgb.convert("CMYK"), "JPEG"),
        "gif frames": _saved(frames[0], "GIF", save_all=True, append_images=frames[1:]),
        "bmp rgb": _saved(rgb, "BMP"),
        "bmp palette": _saved(rgb.quantize(16), "BMP"),
        "ppm rgb": _saved(rgb, "PPM"),
        "tiff raw": _saved(rgb, "TIFF"),
        "tiff lzw": _saved(rgb, "TIFF", compression="tiff_lzw"),
        "tiff deflate": _saved(alpha, "TIFF", compression="tiff_adobe_deflate"),
        "tiff jpeg": _saved(rgb, "TIFF", compression="jpeg"),
        "tiff float": _saved(real, "TIFF", compression="tiff_adobe_deflate"),
        "tiff grey16": _saved(grey16, "TIFF"),
    }
    optional = {
        "webp": {
            "webp lossy": (rgb, "WEBP", {}),
            "webp lossless": (alpha, "WEBP", {"lossless": True}),
            "webp frames": (rgb, "WEBP", {"save_all": True, "append_images": frames[1:]}),
        },
        "jpg_2000": {"jpeg2000": (rgb, "JPEG2000", {})},
        "avif": {"avif": (rgb, "AVIF", {"speed": 10})},
    }
    for feature, kinds in optional.items():
        if features.check(feature):
            made |= {name: _saved(i, kind, **options) for name, (i, kind, options) in kinds.items()}
    return made


def mutated(seed: int) -> tuple[str, bytes]:
    """A damaged file and the name of the sound one; the same for the same seed."""
    rng = random.Random(seed)
    name, data = rng.choice(sorted(sound_files().items()))
    own = BY_FORMAT.get(name.split()[0], ())
    content = bytearray(data)
    for _ in range(rng.choice((1, 1, 1, 2, 4))):
        mutation = rng.choice(own) if own and rng.random() < 0.7 else rng.choice(ANY)
        content = bytearray(mutation(content, rng))
    return name, bytes(content)


def _saved(image: Image.Image, kind: str, **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def _texts() -> object:
    from PIL.PngImagePlugin import PngInfo

    found = PngInfo()
    found.add_text("prompt", "a text " * 40, zip=True)
    found.add_itxt("parameters", "steps: 20")
    return found


def rgb16_png(generator: np.random.Generator) -> bytes:
    rows = generator.integers(0, 65536, (64, 96, 3), np.uint16).astype(">u2")
    raw = b"".join(b"\0" + row.tobytes() for row in rows)
    header = struct.pack(">IIBBBBB", 96, 64, 16, 2, 0, 0, 0)
    return b"".join(
        [
            b"\x89PNG\r\n\x1a\n",
            chunk(b"IHDR", header),
            chunk(b"IDAT", zlib.compress(raw)),
            chunk(b"IEND", b""),
        ]
    )


def chunk(kind: bytes, content: bytes) -> bytes:
    """A PNG chunk with its length and sum."""
    return (
        struct.pack(">I", len(content))
        + kind
        + content
        + struct.pack(">I", zlib.crc32(kind + content))
    )


# Any format.


def cut(data: bytearray, rng: random.Random) -> bytes:
    return bytes(data[: rng.randrange(len(data) + 1)])


def flip(data: bytearray, rng: random.Random) -> bytes:
    if data:
        data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    return bytes(data)


def number(data: bytearray, rng: random.Random) -> bytes:
    """An integer near the head, or anywhere, becomes one that goes wrong."""
    order, (kind, size) = rng.choice("<>"), rng.choice((("H", 2), ("I", 4)))
    reach = min(len(data), rng.choice((64, 512, 2**20)))
    if reach > size:
        struct.pack_into(
            order + kind, data, rng.randrange(reach - size), rng.choice(NUMBERS) % 256**size
        )
    return bytes(data)


def noise(data: bytearray, rng: random.Random) -> bytes:
    if data:
        start = rng.randrange(len(data))
        stop = min(len(data), start + rng.choice((1, 4, 64)))
        data[start:stop] = rng.randbytes(stop - start)
    return bytes(data)


def repeat(data: bytearray, rng: random.Random) -> bytes:
    """A part stands twice, or is missing."""
    start = rng.randrange(len(data) + 1)
    stop = min(len(data), start + rng.choice((1, 16, 256)))
    return bytes(data[:stop] + data[start if rng.random() < 0.5 else stop :][: len(data)])


def splice(data: bytearray, rng: random.Random) -> bytes:
    """The head of one file and the tail of another."""
    other = rng.choice(sorted(sound_files().items()))[1]
    return bytes(data[: rng.randrange(len(data) + 1)]) + other[rng.randrange(len(other)) :]


ANY: tuple[Mutation, ...] = (cut, flip, number, noise, repeat, splice)


# PNG.


def _png_chunks(data: bytes) -> list[tuple[bytes, bytes]]:
    found, start = [], 8
    while start + 12 <= len(data):
        length = int.from_bytes(data[start : start + 4], "big")
        if start + 12 + length > len(data):
            break
        found.append((data[start + 4 : start + 8], data[start + 8 : start + 8 + length]))
        start += 12 + length
    return found


def png_header(data: bytearray, rng: random.Random) -> bytes:
    """Width, height, depth, colour type or interlace of IHDR, with the right sum."""
    chunks = _png_chunks(bytes(data))
    if not chunks or len(chunks[0][1]) != 13:
        return bytes(data)
    header = bytearray(chunks[0][1])
    if rng.random() < 0.6:
        struct.pack_into(">I", header, rng.choice((0, 4)), rng.choice(NUMBERS))
    else:
        header[rng.randrange(8, 13)] = rng.choice((0, 1, 2, 3, 4, 6, 8, 16, 255))
    rest = b"".join(chunk(*one) for one in chunks[1:])
    return bytes(data[:8]) + chunk(chunks[0][0], bytes(header)) + rest


def png_chunks(data: bytearray, rng: random.Random) -> bytes:
    """Chunks swapped, doubled, missing, renamed, inserted, or with noise, and the right sums."""
    chunks = _png_chunks(bytes(data))
    if not chunks:
        return bytes(data)
    place = rng.randrange(len(chunks))
    kind, content = chunks[place]
    choice = rng.randrange(6)
    if choice == 0:
        other = rng.randrange(len(chunks))
        chunks[place], chunks[other] = chunks[other], chunks[place]
    elif choice == 1:
        chunks.insert(place, chunks[place])
    elif choice == 2:
        del chunks[place]
    elif choice == 3:
        kinds = (b"PLTE", b"tRNS", b"IDAT", b"gAMA", b"eXIf", b"acTL", b"fcTL", b"fdAT", b"zTXt")
        chunks[place] = (rng.choice(kinds), content)
    elif choice == 4:
        chunks[place] = (kind, noise(bytearray(content), rng))
    else:
        bomb = b"key\0\0" + zlib.compress(b"a" * rng.choice((10, 2**20, 2**25)))
        chunks.insert(place, (b"zTXt", bomb))
    return bytes(data[:8]) + b"".join(chunk(*one) for one in chunks)


# JPEG.


def _jpeg_segments(data: bytes) -> list[tuple[int, int]]:
    """Start and end of each segment before the scan."""
    found, start = [], 2
    while start + 4 <= len(data) and data[start] == 0xFF:
        end = start + 2 + int.from_bytes(data[start + 2 : start + 4], "big")
        found.append((start, min(end, len(data))))
        if data[start + 1] == 0xDA:
            break
        start = end
    return found


def jpeg_segments(data: bytearray, rng: random.Random) -> bytes:
    """A segment's length, content or marker altered, or the segment doubled or missing."""
    segments = _jpeg_segments(bytes(data))
    if not segments:
        return bytes(data)
    start, end = rng.choice(segments)
    choice = rng.randrange(5)
    if choice == 0:
        struct.pack_into(">H", data, start + 2, rng.choice(NUMBERS) % 2**16)
    elif choice == 1:
        data[start + 4 : end] = noise(data[start + 4 : end], rng)
    elif choice == 2:
        data[start + 1] = rng.choice((0xC0, 0xC2, 0xC3, 0xC9, 0xDD, 0xE1, 0xFE, 0xDA))
    elif choice == 3:
        data[start:start] = data[start:end]
    else:
        del data[start:end]
    return bytes(data)


def jpeg_frame(data: bytearray, rng: random.Random) -> bytes:
    """Dimensions, components or sampling of the frame header."""
    for start, _ in _jpeg_segments(bytes(data)):
        if data[start + 1] in (0xC0, 0xC2) and start + 18 < len(data):
            if rng.random() < 0.6:
                struct.pack_into(
                    ">H", data, start + rng.choice((5, 7)), rng.choice(NUMBERS) % 2**16
                )
            else:
                data[start + rng.choice((4, 9, 10, 11, 12))] = rng.choice((0, 1, 2, 4, 17, 68, 255))
            break
    return bytes(data)


# WebP, GIF, BMP, PPM and TIFF.


def riff_chunks(data: bytearray, rng: random.Random) -> bytes:
    """The length, name or first bytes (where dimensions are) of a RIFF chunk."""
    starts, start = [], 12
    while start + 8 <= len(data):
        starts.append(start)
        length = int.from_bytes(data[start + 4 : start + 8], "little")
        start += 8 + length + length % 2
    if not starts:
        return bytes(data)
    start, choice = rng.choice(starts), rng.randrange(3)
    if choice == 0:
        struct.pack_into("<I", data, start + 4, rng.choice(NUMBERS))
    elif choice == 1:
        data[start : start + 4] = rng.choice((b"VP8 ", b"VP8L", b"VP8X", b"ANIM", b"ANMF", b"ALPH"))
    else:
        data[start + 8 : start + 20] = noise(data[start + 8 : start + 20], rng)
    return bytes(data)


def fields(order: str, places: tuple[tuple[int, str], ...]) -> Mutation:
    """One field at a known place becomes a number that goes wrong."""

    def mutation(data: bytearray, rng: random.Random) -> bytes:
        place, kind = rng.choice(places)
        size = struct.calcsize(kind)
        if place + size <= len(data):
            struct.pack_into(order + kind, data, place, rng.choice(NUMBERS) % 256**size)
        return bytes(data)

    return mutation


def gif_frame(data: bytearray, rng: random.Random) -> bytes:
    """Place, size, flags or code size of a frame."""
    frame = data.find(b"\x2c", 13 + 3 * 2 ** (1 + (data[10] & 7)) if len(data) > 13 else 0)
    if 0 <= frame < len(data) - 11:
        if rng.random() < 0.7:
            place = frame + rng.choice((1, 3, 5, 7))
            struct.pack_into("<H", data, place, rng.choice(NUMBERS) % 2**16)
        else:
            data[frame + rng.choice((9, 10))] = rng.randrange(256)
    return bytes(data)


def ppm_header(data: bytearray, rng: random.Random) -> bytes:
    words = bytes(data).split(maxsplit=4)
    if len(words) < 5:
        return bytes(data)
    words[rng.randrange(4)] = rng.choice((b"P1", b"P3", b"P5", b"-4", b"0", b"1", b"99999999"))
    return b"\n".join(words)


def tiff_entry(data: bytearray, rng: random.Random) -> bytes:
    """Tag, type, count or value of an entry of the first directory, or where the next one is."""
    if len(data) < 8:
        return bytes(data)
    order = "<" if data[:2] == b"II" else ">"
    start = struct.unpack_from(order + "I", data, 4)[0]
    if start + 2 > len(data):
        return bytes(data)
    count = struct.unpack_from(order + "H", data, start)[0]
    entry = start + 2 + 12 * rng.randrange(max(1, count))
    choice = rng.randrange(5)
    if entry + 16 > len(data):
        return bytes(data)
    if choice == 0:
        tags = (254, 256, 257, 258, 259, 262, 273, 277, 278, 279, 284, 317, 322, 324, 330, 339)
        struct.pack_into(order + "H", data, entry, rng.choice(tags))
    elif choice == 1:
        struct.pack_into(order + "H", data, entry + 2, rng.randrange(14))
    elif choice == 2:
        struct.pack_into(order + "I", data, entry + 4, rng.choice(NUMBERS))
    elif choice == 3:
        struct.pack_into(order + "I", data, entry + 8, rng.choice(NUMBERS))
    elif start + 2 + 12 * count + 4 <= len(data):
        struct.pack_into(order + "I", data, start + 2 + 12 * count, rng.choice((start, *NUMBERS)))
    return bytes(data)


BY_FORMAT: dict[str, tuple[Mutation, ...]] = {
    "png": (png_header, png_chunks),
    "jpeg": (jpeg_segments, jpeg_frame),
    "webp": (riff_chunks,),
    "gif": (fields("<", ((6, "H"), (8, "H"), (10, "B"))), gif_frame),
    "bmp": (
        fields("<", ((10, "I"), (14, "I"), (18, "I"), (22, "I"), (28, "H"), (30, "I"), (46, "I"))),
    ),
    "ppm": (ppm_header,),
    "tiff": (tiff_entry, tiff_entry),
}
"""Mutations that know the structure of a format."""
