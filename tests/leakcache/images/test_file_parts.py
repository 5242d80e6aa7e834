"""Files that are mended, and what files say of their origin."""

from __future__ import annotations

import io
import json
import struct
import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, PngImagePlugin

from leakcache.errors import ImageError
from leakcache.images.decode import decode
from leakcache.images.file_parts import SHOWN, declared_origin, mend_png


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


SETTINGS = "a cat\nSteps: 20, Sampler: Euler a, Seed: 1, Model: dreamshaper-8, Version: v1.9"
GRAPH = '{"4": {"inputs": {"ckpt_name": "sdxl-base.safetensors"}}}'
TYPE = "http://cv.iptc.org/newscodes/digitalsourcetype/"


def png(**texts: str) -> bytes:
    info, file = PngImagePlugin.PngInfo(), io.BytesIO()
    for key, text in texts.items():
        info.add_text(key, text, zip=key == "workflow")
    Image.new("RGB", (8, 8)).save(file, "PNG", pnginfo=info)
    return file.getvalue()


def jpeg(kind: str = "JPEG", **options: object) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (8, 8)).save(file, kind, **options)
    return file.getvalue()


def packet(body: str) -> bytes:
    return f'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:Description {body}</x:xmpmeta>'.encode()


def said(data: bytes) -> str:
    origin = declared_origin(data)
    return origin.words if origin else ""


def test_texts_of_the_usual_programs() -> None:
    assert said(png(parameters=SETTINGS)) == (
        "PNG text parameters: Stable Diffusion web UI, model dreamshaper-8"
    )
    assert said(png(prompt=GRAPH)) == "PNG text prompt: ComfyUI, model sdxl-base.safetensors"
    assert said(png(workflow=GRAPH)) == "PNG text workflow: ComfyUI, model sdxl-base.safetensors"
    assert said(png(Software="NovelAI")) == "PNG text Software: NovelAI"
    assert said(png(Title="a cat")) == ""
    assert said(png()) == said(jpeg()) == said(b"") == ""
    exif = Image.Exif()
    exif[0x010F], exif[0x0110] = "Canon", "EOS"
    exif.get_ifd(0x8769)[0x9286] = b"UNICODE\0" + SETTINGS.encode("utf-16-be")
    for kind in ("JPEG", "WEBP", "PNG"):
        assert said(jpeg(kind, exif=exif)) == (
            "EXIF Make: Canon; EXIF Model: EOS; "
            "EXIF UserComment: Stable Diffusion web UI, model dreamshaper-8"
        )


@pytest.mark.parametrize("kind", ["JPEG", "WEBP"])
def test_the_source_type_says_how_the_image_was_made(kind: str) -> None:
    for name, generated in (("trainedAlgorithmicMedia", True), ("digitalCapture", False)):
        body = f'xmp:CreatorTool="Tool 1" Iptc4xmpExt:DigitalSourceType="{TYPE}{name}"/>'
        origin = declared_origin(jpeg(kind, xmp=packet(body)))
        assert origin is not None
        assert origin.generated is generated
        assert origin.words == f"XMP CreatorTool: Tool 1; IPTC DigitalSourceType: {name}"
    element = f"><photoshop:Credit>Made with Google AI</photoshop:Credit>{TYPE}composite"
    assert "XMP Credit: Made with Google AI" in said(jpeg(kind, xmp=packet(element)))


def test_content_credentials_are_said_to_be_unverified() -> None:
    plain = png()
    manifest = b"jumb c2pa " + TYPE.encode() + b"trainedAlgorithmicMedia"
    origin = declared_origin(plain[:33] + chunk(b"caBX", manifest) + plain[33:])
    assert origin is not None
    assert origin.generated is True
    assert "Content Credentials: present, signature not verified" in origin.words
    assert "Content Credentials DigitalSourceType: trainedAlgorithmicMedia" in origin.words


def test_a_conflict_needs_another_known_generator_or_a_camera() -> None:
    origin = declared_origin(png(parameters=SETTINGS))
    assert origin is not None
    known = ("sd-1.5", "dreamshaper-8", "dreamshaper")
    assert origin.conflict("dreamshaper-8", known) == ""
    assert origin.conflict("sd-1.5", known) == "the file names dreamshaper-8, not sd-1.5"
    assert origin.conflict("sd-1.5", ("sd-1.5", "pixart")) == ""
    captured = packet(f'Iptc4xmpExt:DigitalSourceType="{TYPE}digitalCapture"/>')
    camera = declared_origin(jpeg(xmp=captured))
    assert camera is not None
    assert camera.conflict("sd-1.5", known) == (
        "the file says that a camera or scanner made it, not sd-1.5"
    )


def test_values_are_one_short_line() -> None:
    origin = declared_origin(png(Software="\x1b[2J\n" + "x" * 10_000))
    assert origin is not None
    (claim,) = origin.claims
    assert len(claim.value) <= SHOWN
    assert claim.value.isprintable()
    bomb = b"workflow\0\0" + zlib.compress(bytes(2**26))
    plain = png()
    assert said(plain[:33] + chunk(b"zTXt", bomb) + plain[33:]) == "PNG text workflow: ComfyUI"


@given(st.binary(max_size=200), st.integers(0, 60))
def test_damage_never_raises(noise: bytes, place: int) -> None:
    for data in (png(parameters=SETTINGS, workflow=GRAPH), jpeg(xmp=packet("a:Credit='"))):
        declared_origin(data[:place] + noise + data[place:])
        declared_origin(data[: -len(noise) or None])
