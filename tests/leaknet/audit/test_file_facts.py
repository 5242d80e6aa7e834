"""File facts of files written by Pillow, and of parts inserted by hand."""

from __future__ import annotations

import contextlib
import io
import struct
import zlib
from dataclasses import replace

import numpy as np
import pytest
from audit_images import random_image, saved
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, PngImagePlugin

from leakcache.errors import ImageError
from leaknet.audit.file_facts import (
    SIZES,
    fact_table,
    fingerprint,
    order,
    quality,
    read_facts,
    read_parts,
)

IMAGE = random_image(0, 96, 64)
JUMBF = b"JP\0\1\0\0\0\1\0\0\0\x40jumb\0\0\0\x28jumdc2pa\0\x11\0\x10"


def exif(software: str = "") -> Image.Exif:
    found = Image.Exif()
    found[0x010E] = "a description"
    if software:
        found[0x0131] = software
    return found


def with_segment(jpeg: bytes, marker: int, content: bytes) -> bytes:
    segment = b"\xff" + bytes([marker]) + struct.pack(">H", len(content) + 2) + content
    return jpeg[:2] + segment + jpeg[2:]


def with_chunk(png: bytes, name: bytes, content: bytes) -> bytes:
    chunk = struct.pack(">I", len(content)) + name + content
    chunk += struct.pack(">I", zlib.crc32(name + content))
    return png[:33] + chunk + png[33:]


def with_riff(webp: bytes, name: bytes, content: bytes) -> bytes:
    body = webp[8:] + name + struct.pack("<I", len(content)) + content + b"\0" * (len(content) % 2)
    return b"RIFF" + struct.pack("<I", len(body)) + body


def test_a_plain_jpeg_gives_its_size_coding_and_tables():
    facts = read_facts(saved(IMAGE, "JPEG", quality=83, subsampling="4:2:2"))
    assert (facts.width, facts.height, facts.format, facts.mode) == (96, 64, "JPEG", "RGB")
    assert (facts.quality, facts.subsampling, facts.coding) == (83, "4:2:2", "baseline")
    assert facts.structure == "APP0:JFIF DQT DQT SOF0 DHT DHT DHT DHT SOS"
    assert not any((facts.exif, facts.icc, facts.xmp, facts.c2pa, facts.software))


def test_progressive_is_another_coding():
    assert read_facts(saved(IMAGE, "JPEG", progressive=True)).coding == "progressive"


@pytest.mark.parametrize("level", [10, 50, 75, 90, 95, 100])
def test_the_quality_is_the_one_it_was_saved_with(level):
    with Image.open(io.BytesIO(saved(IMAGE, "JPEG", quality=level))) as image:
        assert quality(image.quantization) == level
    # Tables of other programs have no exact quality; the nearest one is given.
    with Image.open(io.BytesIO(saved(IMAGE, "JPEG", qtables="web_high"))) as image:
        assert 70 <= quality(image.quantization) <= 100


def test_only_equal_tables_have_equal_fingerprints():
    def tables(**options):
        with Image.open(io.BytesIO(saved(IMAGE, "JPEG", **options))) as image:
            return fingerprint(image.quantization)

    assert tables(quality=80) == tables(quality=80, progressive=True)
    assert len({tables(quality=80), tables(quality=81), tables(qtables="web_low")}) == 3


@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP", "TIFF", "AVIF"])
def test_exif_profile_and_xmp_are_found(form):
    bare = read_facts(saved(IMAGE, form))
    assert not any((bare.exif, bare.icc, bare.xmp))
    tags = exif("Generator 2.0")
    if form == "TIFF":
        tags[700] = b"<x:xmpmeta/>"
    full = read_facts(saved(IMAGE, form, exif=tags, icc_profile=b"p" * 200, **_xmp(form)))
    assert full.exif
    assert full.icc
    assert full.xmp
    assert full.software == "Generator 2.0"


def _xmp(form):
    if form != "PNG":
        return {"xmp": b"<x:xmpmeta/>"}
    text = PngImagePlugin.PngInfo()
    text.add_itxt("XML:com.adobe.xmp", "<x:xmpmeta/>")
    return {"pnginfo": text}


def test_content_credentials_are_found_in_each_format():
    jpeg, png, webp = (saved(IMAGE, form) for form in ("JPEG", "PNG", "WEBP"))
    assert not any(read_facts(data).c2pa for data in (jpeg, png, webp))
    assert read_facts(with_segment(jpeg, 0xEB, JUMBF)).c2pa
    assert read_facts(with_chunk(png, b"caBX", JUMBF)).c2pa
    assert read_facts(with_riff(webp, b"C2PA", JUMBF)).c2pa
    # The words alone, elsewhere in the file, are no credentials.
    assert not read_facts(with_segment(jpeg, 0xFE, JUMBF)).c2pa


def test_png_texts_and_comments_name_the_program():
    text = PngImagePlugin.PngInfo()
    text.add_text("parameters", "a cat, steps: 20")
    text.add_text("Software", "Some UI")
    facts = read_facts(saved(IMAGE, "PNG", pnginfo=text))
    assert facts.text_keys == "Software parameters"
    assert facts.software == "Some UI"
    assert "tEXt tEXt IDAT" in facts.structure
    assert (
        read_facts(saved(IMAGE, "JPEG", comment=b"made by a robot")).software == "made by a robot"
    )


def test_pixel_data_in_many_chunks_are_one_part_of_the_order():
    noise = np.random.default_rng(0).integers(0, 256, (400, 400, 3), dtype=np.uint8)
    data = saved(Image.fromarray(noise), "PNG")
    assert data.count(b"IDAT") > 1
    assert read_facts(data).structure == "IHDR IDAT IEND"


def test_lossless_and_interlaced_are_codings():
    assert read_facts(saved(IMAGE, "WEBP", lossless=True)).coding == "VP8L"
    assert read_facts(saved(IMAGE, "WEBP")).coding == "VP8"
    levels = {read_facts(saved(IMAGE, "PNG", compress_level=n)).coding for n in (1, 9)}
    assert levels == {"8 bit, type 2, zlib level 0", "8 bit, type 2, zlib level 3"}


@pytest.mark.filterwarnings("ignore")
def test_damaged_exif_counts_as_exif_that_names_nothing():
    facts = read_facts(with_segment(saved(IMAGE, "JPEG"), 0xE1, b"Exif\0\0II*\0\xff\xff\xff\xff"))
    assert facts.exif
    assert facts.software == ""


@pytest.mark.parametrize("data", [b"", b"\xff\xd8", b"no image", b"\x89PNG\r\n\x1a\n", b"<svg/>"])
def test_bytes_that_are_no_image_are_refused(data):
    with pytest.raises(ImageError):
        read_facts(data)


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_damage_never_breaks_the_reading_of_parts(data):
    form = data.draw(st.sampled_from(["JPEG", "PNG", "WEBP"]))
    whole = bytearray(saved(IMAGE, form, exif=exif("x"), icc_profile=b"profile"))
    for _ in range(data.draw(st.integers(0, 5))):
        whole[data.draw(st.integers(0, len(whole) - 1))] = data.draw(st.integers(0, 255))
    cut = bytes(whole[: data.draw(st.integers(0, len(whole)))])
    order(read_parts(cut))
    with contextlib.suppress(ImageError):
        read_facts(cut)


PLAIN = read_facts(saved(random_image(0), "JPEG"))


def test_only_what_varies_becomes_columns():
    facts = [PLAIN, replace(PLAIN, width=96), replace(PLAIN, exif=True)]
    table = fact_table(facts)
    assert list(table.columns) == ["width", "aspect", "exif", "bytes_per_pixel"]
    assert table.matrix[:, table.columns["width"][0]].tolist() == [48, 96, 48]
    assert table.matrix[:, table.columns["exif"][0]].tolist() == [0, 0, 1]


def test_texts_get_a_column_per_value_and_rare_ones_none():
    facts = [replace(PLAIN, software=f"program {i // 2}") for i in range(80)]
    table = fact_table(facts)
    block = table.matrix[:, table.columns["software"]]
    assert block.shape == (80, 32)
    assert (block.sum(axis=0) == 2).all()
    assert set(block.sum(axis=1).tolist()) == {0, 1}


def test_sizes_are_omitted_on_request():
    facts = [PLAIN, replace(PLAIN, bytes=PLAIN.bytes + 1)]
    assert fact_table(facts).columns.keys() == SIZES
    assert fact_table(facts, sizes=False).matrix.shape == (2, 0)


def test_equivalent_facts_are_evaluated_once():
    facts = [PLAIN, PLAIN, replace(PLAIN, width=96, height=96, format="PNG", mode="RGBA")]
    facts.append(replace(facts[2], mode="L"))
    calls = []

    def evaluate(block: np.ndarray) -> int:
        calls.append(block)
        return len(calls)

    found = fact_table(facts).evaluate_each(evaluate)
    assert found["width"] == found["height"] == found["format"] == 1
    assert found["mode"] == 2
    assert len(calls) == 2


def test_an_empty_collection_has_no_columns():
    assert fact_table([]).matrix.shape == (0, 0)
