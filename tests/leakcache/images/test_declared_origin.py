"""What files say of their origin is read from each place, and never trusted further than that."""

from __future__ import annotations

import io
import struct
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, PngImagePlugin

from leakcache.images.file_parts import SHOWN, declared_origin

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


def chunk(kind: bytes, content: bytes) -> bytes:
    check = struct.pack(">I", zlib.crc32(kind + content))
    return struct.pack(">I", len(content)) + kind + content + check


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
