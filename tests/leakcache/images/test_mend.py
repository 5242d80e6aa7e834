"""Files with faults that no viewer minds: the pixels are those of the plain file, or none."""

from __future__ import annotations

import io
import json
import struct
import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from leakcache.errors import ImageError
from leakcache.images.decode import decode
from leakcache.images.file_parts import mend_png


def noise(side: int = 96, seed: int = 0) -> Image.Image:
    values = np.random.default_rng(seed).integers(0, 256, (side, side, 3), dtype=np.uint8)
    return Image.fromarray(values)


def saved(image: Image.Image, kind: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def chunk(name: bytes, content: bytes, wrong: int = 0) -> bytes:
    check = zlib.crc32(name + content) ^ wrong
    return struct.pack(">I", len(content)) + name + content + struct.pack(">I", check)


LONG = json.dumps({"nodes": list(range(400_000))}).encode()
EXTRAS = {
    "zTXt": chunk(b"zTXt", b"workflow\0\0" + zlib.compress(LONG)),
    "tEXt": chunk(b"tEXt", b"workflow\0" + LONG),
    "iTXt": chunk(b"iTXt", b"workflow\0\1\0\0\0" + zlib.compress(LONG)),
    "plain iTXt": chunk(b"iTXt", b"workflow\0\0\0\0\0" + LONG),
    "iCCP": chunk(b"iCCP", b"Monitor\0\0" + zlib.compress(bytes(3_000_000))),
    "bomb": chunk(b"zTXt", b"k\0\0" + zlib.compress(bytes(50_000_000))),
    "many": b"".join(chunk(b"tEXt", b"k\0" + bytes([65]) * 1_000_000) for _ in range(80)),
    "wrong sum": chunk(b"tEXt", b"Comment\0hello", wrong=1),
    "wrong sum of time": chunk(b"tIME", bytes(7), wrong=0xFFFF),
    "broken zlib": chunk(b"zTXt", b"k\0\0" + b"no zlib"),
}


@pytest.mark.parametrize("extra", EXTRAS)
def test_texts_and_profiles_alter_no_pixel(extra: str) -> None:
    plain = saved(noise(), "PNG")
    dressed = plain[:33] + EXTRAS[extra] + plain[33:]
    assert decode(dressed).tobytes() == decode(plain).tobytes()


def test_a_sound_file_is_left_as_it_is() -> None:
    plain = saved(noise(), "PNG")
    assert mend_png(plain) is plain


def test_short_texts_stay_as_orientation_may_stand_in_them() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    turned = saved(noise(), "PNG", exif=exif)
    dressed = turned[:33] + EXTRAS["zTXt"] + turned[33:]
    assert decode(dressed).tobytes() == decode(turned).tobytes()
    assert decode(dressed).tobytes() != noise().tobytes()


@pytest.mark.parametrize("name", [b"IDAT", b"IHDR"])
def test_a_wrong_sum_of_pixels_is_still_refused(name: bytes) -> None:
    data = bytearray(saved(noise(), "PNG"))
    place = data.index(name) + 8
    data[place] ^= 0xFF
    with pytest.raises(ImageError):
        decode(bytes(data))


@settings(deadline=None, max_examples=200)
@given(st.binary(max_size=200), st.integers(0, 90))
def test_mending_never_fails_whatever_the_bytes(junk: bytes, place: int) -> None:
    plain = saved(noise(8), "PNG")
    assert isinstance(mend_png(plain[:place] + junk + plain[place:]), bytes)


@pytest.mark.parametrize(
    "options",
    [
        {"quality": 90},
        {"quality": 40, "progressive": True},
        {"quality": 75, "restart_marker_rows": 1},
    ],
)
@pytest.mark.parametrize("image", [noise(), Image.new("RGB", (96, 96), (90, 120, 30))])
def test_a_jpeg_without_its_end_marker_has_the_same_pixels(
    image: Image.Image, options: dict[str, object]
) -> None:
    whole = saved(image, "JPEG", **options)
    assert whole.endswith(b"\xff\xd9")
    assert decode(whole[:-2]).tobytes() == decode(whole).tobytes()
    assert decode(whole[:-1]).tobytes() == decode(whole).tobytes()


@pytest.mark.parametrize("share", [0.3, 0.6, 0.9, 0.98])
@pytest.mark.parametrize("progressive", [False, True])
def test_a_jpeg_that_lacks_pixels_is_still_refused(share: float, progressive: bool) -> None:
    whole = saved(noise(), "JPEG", quality=90, progressive=progressive)
    with pytest.raises(ImageError, match="truncated"):
        decode(whole[: int(share * len(whole))])
