"""Decoding: every mode becomes the right RGB, every damage a reason."""

from __future__ import annotations

import io
import struct
import warnings
import zlib
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from PIL import Image

from leakcache.errors import ImageError
from leakcache.images.decode import PIXEL_LIMIT, as_rgb, decode

RNG = np.random.default_rng(7)
NOISE = RNG.integers(0, 256, (24, 40, 3), dtype=np.uint8)


def smooth(height: int = 24, width: int = 40) -> np.ndarray:
    """An image that lossy formats keep closely."""
    y, x = np.mgrid[0:height, 0:width]
    return np.stack([x * 4, y * 8, 128 + x - y], -1).astype(np.uint8)


def save(image: Image.Image, kind: str, **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def pixels(data: bytes) -> np.ndarray:
    image = decode(data)
    assert image.mode == "RGB"
    return np.asarray(image)


def png(ihdr: tuple[int, ...], rows: bytes) -> bytes:
    """A PNG made by hand, of a kind that Pillow does not write."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return (
            struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
        )

    head = chunk(b"IHDR", struct.pack(">IIBBBBB", *ihdr))
    return b"\x89PNG\r\n\x1a\n" + head + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def png16(values: np.ndarray) -> bytes:
    height, width, channels = values.shape
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
    colour = {1: 0, 2: 4, 3: 2, 4: 6}[channels]
    return png((width, height, 16, colour, 0, 0, 0), rows)


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "BMP", "PPM", "WEBP"])
def test_lossless_formats_keep_every_value(kind):
    options = {"lossless": True} if kind == "WEBP" else {}
    np.testing.assert_array_equal(pixels(save(Image.fromarray(NOISE), kind, **options)), NOISE)


@pytest.mark.parametrize("kind", ["JPEG", "WEBP", "JPEG2000", "AVIF"])
def test_lossy_formats_are_read(kind):
    decoded = pixels(save(Image.fromarray(smooth()), kind)).astype(int)
    assert np.abs(decoded - smooth()).mean() < 4


def test_jpeg_is_decoded_as_pillow_does_it_in_full():
    data = save(Image.fromarray(smooth(600, 800)), "JPEG", quality=75)
    np.testing.assert_array_equal(pixels(data), np.asarray(Image.open(io.BytesIO(data))))


@pytest.mark.parametrize("mode", ["1", "L", "P"])
def test_grey_and_palette_images_become_rgb(mode):
    image = Image.fromarray(NOISE).convert(mode)
    np.testing.assert_array_equal(pixels(save(image, "PNG")), np.asarray(image.convert("RGB")))


def test_palette_transparency_changes_nothing_and_warns_nobody():
    image = Image.fromarray(NOISE).quantize(16)
    expected = np.asarray(image.convert("RGB"))
    data = save(image, "PNG", transparency=bytes(range(0, 256, 16)))
    np.testing.assert_array_equal(pixels(data), expected)


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "WEBP"])
def test_alpha_is_dropped_and_the_colours_below_it_stay(kind):
    alpha = np.zeros((24, 40, 1), np.uint8)
    alpha[:, 20:] = 130
    options = {"lossless": True, "exact": True} if kind == "WEBP" else {}
    data = save(Image.fromarray(np.dstack([NOISE, alpha])), kind, **options)
    np.testing.assert_array_equal(pixels(data), NOISE)


def test_grey_with_alpha_is_grey():
    grey = NOISE[..., 0]
    image = Image.merge("LA", [Image.fromarray(grey), Image.new("L", (40, 24), 3)])
    np.testing.assert_array_equal(pixels(save(image, "PNG")), np.dstack([grey] * 3))


def test_single_colour_transparency_changes_nothing():
    data = save(Image.fromarray(NOISE), "PNG", transparency=tuple(map(int, NOISE[0, 0])))
    np.testing.assert_array_equal(pixels(data), NOISE)


@pytest.mark.parametrize("kind", ["JPEG", "TIFF"])
def test_cmyk_is_not_inverted(kind):
    flat = Image.new("RGB", (32, 32), (200, 40, 90))
    decoded = pixels(save(flat.convert("CMYK"), kind))
    assert np.abs(decoded.astype(int) - (200, 40, 90)).max() <= 4


@pytest.mark.parametrize("mark", [b"Adobe", b"Nobod"])
def test_cmyk_inks_are_turned_round_as_pillow_does_it(mark):
    image = Image.new("CMYK", (32, 32), (10, 200, 60, 0))
    data = save(image, "JPEG")
    assert b"Adobe" in data
    data = data.replace(b"Adobe", mark)
    expected = np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))
    np.testing.assert_array_equal(pixels(data), expected)


def test_ycbcr_is_converted():
    image = Image.fromarray(smooth()).convert("YCbCr")
    np.testing.assert_array_equal(pixels(save(image, "TIFF")), np.asarray(image.convert("RGB")))


def nearest(values: np.ndarray) -> np.ndarray:
    return np.rint(values / 257).astype(np.uint8)


@pytest.mark.parametrize("channels", [3, 4])
def test_16_bit_colour_png_takes_the_nearest_of_8_bits(channels):
    values = RNG.integers(0, 65536, (24, 40, channels)).astype(np.uint16)
    values[0, :4, :3] = np.array([0, 128, 129, 65535])[:, None]
    np.testing.assert_array_equal(pixels(png16(values)), nearest(values)[..., :3])


def test_16_bit_grey_png_takes_the_nearest_of_8_bits():
    values = np.arange(65536, dtype=np.uint16).reshape(256, 256)
    grey = pixels(save(Image.fromarray(values), "PNG"))
    np.testing.assert_array_equal(grey, np.dstack([nearest(values)] * 3))
    np.testing.assert_array_equal(pixels(png16(values[..., None])), grey)


def test_16_bit_grey_with_alpha_is_within_one_level():
    values = RNG.integers(0, 65536, (24, 40, 2)).astype(np.uint16)
    error = pixels(png16(values)).astype(int) - nearest(values[..., :1])
    assert np.abs(error).max() <= 1


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("compression", [1, 8])
def test_16_bit_colour_tiff_takes_the_nearest_of_8_bits(order, compression):
    values = RNG.integers(0, 65536, (24, 40, 3)).astype(np.uint16)
    np.testing.assert_array_equal(pixels(tiff16(values, order, compression)), nearest(values))


def tiff16(values: np.ndarray, order: str, compression: int) -> bytes:
    """A TIFF of one strip, plain or deflated, in either byte order."""
    height, width, _ = values.shape
    body = values.astype(f"{order}u2").tobytes()
    body = zlib.compress(body) if compression == 8 else body
    tags = [
        (256, width), (257, height), (258, None), (259, compression), (262, 2),
        (273, 8), (277, 3), (278, height), (279, len(body)),
    ]  # fmt: skip
    directory = 8 + len(body) + len(body) % 2
    bits_at = directory + 2 + 12 * len(tags) + 4
    entries = b"".join(
        struct.pack(f"{order}HHII", tag, 3, 3, bits_at)
        if value is None
        else struct.pack(f"{order}HHII", tag, 4, 1, value)
        for tag, value in tags
    )
    mark = b"II*\0" if order == "<" else b"MM\0*"
    return (
        mark + struct.pack(f"{order}I", directory) + body + b"\0" * (len(body) % 2)
        + struct.pack(f"{order}H", len(tags)) + entries + b"\0" * 4
        + struct.pack(f"{order}HHH", 16, 16, 16)
    )  # fmt: skip


def test_whole_numbers_and_floats_in_their_usual_range_are_grey():
    ramp = np.linspace(0, 1, 40, dtype=np.float32)[None].repeat(24, 0)
    expected = np.dstack([np.rint(ramp * 255).astype(np.uint8)] * 3)
    np.testing.assert_array_equal(pixels(save(Image.fromarray(ramp), "TIFF")), expected)
    wide = np.rint(ramp * 65535).astype(np.int32)
    np.testing.assert_array_equal(pixels(save(Image.fromarray(wide), "TIFF")), expected)


@pytest.mark.parametrize(
    "values",
    [np.full((4, 4), 70_000, np.int32), np.full((4, 4), -1, np.int32),
     np.full((4, 4), 1.5, np.float32), np.full((4, 4), np.nan, np.float32)],
)  # fmt: skip
def test_numbers_without_an_agreed_range_are_refused(values):
    with pytest.raises(ImageError, match="outside 0"):
        decode(save(Image.fromarray(values), "TIFF"))


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied(kind, orientation):
    upright = np.kron([[10, 90, 170], [50, 130, 250]], np.ones((16, 16))).astype(np.uint8)
    stored = {
        1: upright,
        2: upright[:, ::-1],
        3: upright[::-1, ::-1],
        4: upright[::-1],
        5: upright.T,
        6: upright.T[::-1],
        7: upright.T[::-1, ::-1],
        8: upright.T[:, ::-1],
    }[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = save(Image.fromarray(stored.copy()).convert("RGB"), kind, exif=exif.tobytes())
    assert np.abs(pixels(data)[..., 0].astype(int) - upright).max() <= 2


@pytest.mark.filterwarnings("ignore:Corrupt EXIF")  # as leakcache.images.decode asks outside tests
@pytest.mark.parametrize("content", [b"Exif\0\0MM\0*\0\0\0\x08\xff\xff\x01\x12", b"Exif\0\0junk"])
def test_damaged_exif_counts_as_none(content):
    image = Image.fromarray(smooth())
    plain = save(image, "JPEG")
    np.testing.assert_array_equal(pixels(save(image, "JPEG", exif=content)), pixels(plain))


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "PNG", "TIFF"])
def test_animations_give_their_first_frame(kind):
    colours = [(255, 0, 0), (0, 255, 0), (0, 0, 255)]
    frames = [Image.new("RGB", (32, 32), colour) for colour in colours]
    options = {"lossless": True} if kind == "WEBP" else {}
    data = save(frames[0], kind, save_all=True, append_images=frames[1:], **options)
    assert (pixels(data) == colours[0]).all()


def test_colour_profiles_are_ignored():
    data = save(Image.fromarray(NOISE), "PNG", icc_profile=b"not even a profile")
    np.testing.assert_array_equal(pixels(data), NOISE)


def test_the_result_carries_no_metadata():
    exif = Image.Exif()
    exif[0x010F] = "camera"
    image = decode(save(Image.fromarray(NOISE), "JPEG", exif=exif.tobytes()))
    assert image.info == {}
    assert not dict(image.getexif())


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "empty"),
        (b"\0" * 4096, "not an image"),
        (b"hello, this is text", "not an image"),
        (b"<?xml version='1.0'?><svg xmlns='http://www.w3.org/2000/svg'/>", "SVG is not supported"),
        (b"\0\0\0\x18ftypheic\0\0\0\0", "HEIC is not supported"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n", "not an image"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\n", "git lfs pull"),
        (b"\n<!DOCTYPE html><html><title>404</title>", "a web page"),
        (b"\xff\xd8\xff", "not an image|cannot be decoded"),
        (b"\x89PNG\r\n\x1a\n", "not an image|cannot be decoded"),
    ],
)
def test_what_is_no_image_is_refused_with_a_reason(data, reason):
    with pytest.raises(ImageError, match=reason):
        decode(data)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "GIF", "BMP", "TIFF", "WEBP", "PPM", "AVIF"])
@pytest.mark.parametrize("kept", [0.2, 0.5, 0.9])
def test_truncated_files_are_refused(kind, kept):
    data = save(Image.fromarray(RNG.integers(0, 256, (96, 96, 3), dtype=np.uint8)), kind)
    with pytest.raises(ImageError):
        decode(data[: int(len(data) * kept)])


@pytest.mark.parametrize("side", [9_460, 13_000, 30_000, 2**31 - 1])
def test_a_bomb_is_refused_by_its_header(side):
    with pytest.raises(ImageError, match=r"89,478,485 pixels"):
        decode(png((side, side, 8, 2, 0, 0, 0), b"\0"))


def test_the_limit_is_the_one_stated():
    assert PIXEL_LIMIT == 89_478_485


def test_warnings_about_metadata_do_not_cost_the_image():
    """With the filters of a plain process, not those of this test run."""
    plain = save(Image.fromarray(NOISE), "PNG")
    head, tail = plain[:33], plain[33:]
    body = b"acTL" + struct.pack(">II", 0, 0)
    chunk = struct.pack(">I", 8) + body + struct.pack(">I", zlib.crc32(body))
    with warnings.catch_warnings(record=True) as caught:
        warnings.resetwarnings()
        warnings.filterwarnings("ignore", module=r"PIL\.")
        np.testing.assert_array_equal(pixels(head + chunk + tail), NOISE)
    assert caught == []


FILES = [
    save(Image.fromarray(smooth(16, 16)), kind)
    for kind in ("PNG", "JPEG", "GIF", "BMP", "TIFF", "WEBP", "PPM", "JPEG2000", "AVIF")
] + [png16(RNG.integers(0, 65536, (8, 8, 3)).astype(np.uint16))]


@settings(max_examples=400, deadline=None)
@given(
    st.sampled_from(FILES),
    st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(0, 255)), max_size=6),
    st.floats(0, 1),
)
@example(FILES[0], [], 0.0)
def test_damaged_bytes_give_an_image_or_a_reason(data, changes, kept):
    damaged = bytearray(data)
    for place, value in changes:
        damaged[int(place * len(damaged))] = value
    try:
        image = decode(bytes(damaged[: max(1, int(kept * len(damaged)))]))
    except ImageError as error:
        reason = str(error)
    else:
        reason = image.mode
    assert reason == "RGB" or (len(reason) > 3 and "\n" not in reason)


def test_threads_decode_the_same_as_one():
    alone = [pixels(data) for data in FILES]
    with ThreadPoolExecutor(8) as pool:
        for together in pool.map(lambda _: [pixels(data) for data in FILES], range(16)):
            for one, other in zip(alone, together, strict=True):
                np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "I;16"])
def test_pixels_in_memory_come_out_as_those_of_their_file(mode: str) -> None:
    image = Image.effect_noise((40, 24), 90)
    if mode == "I;16":
        image = Image.fromarray(np.asarray(image).astype(np.uint16) * 257 + 3)
    else:
        image = image.convert("RGB").convert(mode)
    exif = Image.Exif()
    exif[0x0112] = 6
    file = io.BytesIO()
    image.save(file, "PNG", exif=exif)
    with Image.open(file) as opened_image:
        before = opened_image.tobytes()
        found = as_rgb(opened_image)
        assert opened_image.tobytes() == before
    assert found.size == (24, 40)
    assert found.tobytes() == decode(file.getvalue()).tobytes()


@pytest.mark.parametrize("array", [np.zeros((3, 4, 2, 2)), np.zeros((3, 4, 3)), np.zeros(0, "u1")])
def test_arrays_that_are_no_images_are_refused(array: np.ndarray) -> None:
    with pytest.raises(ImageError, match="is no image"):
        as_rgb(array)
