"""Views, the canonical form, and views that statistics are taken of."""

from __future__ import annotations

import io
import struct
import tracemalloc
import zlib

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from PIL.JpegImagePlugin import get_sampling
from torchvision.transforms import v2
from torchvision.transforms.functional import normalize, to_tensor

from leakcache.encoder.autoencoder import AutoencoderIdentity
from leakcache.errors import ConfigError, ImageError
from leakcache.images import preprocess as resize
from leakcache.images.decode import Preprocessing, decode, preprocess, to_unit_range
from leakcache.images.preprocess import (
    GRID,
    MAX_SIDE,
    REDUCED,
    canonical_bytes,
    canonicalise,
    centre_square,
    crop_corners,
    enlarged_view,
    native_view,
    reduced_view,
    texture,
)
from leakcache.store.column import DecodedImage
from leakcache.store.manifest import Encoding
from tests.tiny_data import SMALL, tiny_image


def noise(width: int, height: int) -> Image.Image:
    random = np.random.default_rng((width, height))
    return Image.fromarray(random.integers(0, 256, (height, width, 3), dtype=np.uint8))


sides = st.integers(1, 700)


@settings(max_examples=60, deadline=None)
@given(sides, sides, st.sampled_from([64, 128, 256]))
def test_resize_is_torchvisions_resize_and_centre_crop(width, height, size):
    image = noise(width, height)
    reference = v2.Compose([v2.Resize(size, antialias=True), v2.CenterCrop(size)])(image)
    ours = preprocess(image, Preprocessing("resize", size))
    assert ours.shape == (1, size, size, 3)
    difference = np.abs(ours[0].astype(int) - np.asarray(reference))
    assert difference.max() <= 1


@pytest.mark.parametrize(
    ("size", "unequal"),
    [
        ((1024, 1024), 0),
        ((768, 1344), 0),
        ((1536, 1024), 0),
        ((512, 512), 0),
        ((256, 300), 0),
        # No whole ratio: Pillow keeps boxes in 32 bits, which moves a window by some 1e-5 of a
        # pixel and so turns the rounding of a few values in a thousand.
        ((1920, 1080), 0.005),
        ((1000, 1333), 0.005),
    ],
)
def test_the_usual_sizes_match_torchvision_value_for_value(size, unequal):
    image = noise(*size)
    reference = v2.Compose([v2.Resize(256, antialias=True), v2.CenterCrop(256)])(image)
    difference = np.abs(preprocess(image, Preprocessing())[0].astype(int) - np.asarray(reference))
    assert difference.max() <= 1
    assert (difference > 0).mean() <= unequal


@pytest.mark.parametrize("size", [(700, 500), (333, 1001), (1200, 90), (80, 900)])
def test_bands_of_any_height_give_the_same_pixels(size, monkeypatch):
    image = noise(*size)
    whole = preprocess(image, Preprocessing())
    for pixels in (1, 10_000, 60_000):
        monkeypatch.setattr(resize, "_BAND", pixels)
        assert np.array_equal(preprocess(image, Preprocessing()), whole)


@pytest.mark.parametrize("name", ["resize", "crop"])
@pytest.mark.parametrize("size", [(1, 1), (1, 5000), (5000, 1), (1, 200_000), (3, 90_001)])
def test_extreme_shapes_cost_no_more_than_their_view(name, size):
    image = noise(*size)
    tracemalloc.start()
    try:
        views = preprocess(image, Preprocessing(name))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert views.shape == (1, 256, 256, 3)
    assert peak < 32 * 2**20


@settings(max_examples=60, deadline=None)
@given(st.integers(64, 500), st.integers(64, 500), st.integers(1, 8))
def test_crops_are_native_pixels_on_the_grid(width, height, views):
    image = noise(width, height)
    crops = preprocess(image, Preprocessing("crop", 64, views))
    native = np.asarray(image)
    for crop, (left, top) in zip(crops, crop_corners(width, height, 64, views), strict=True):
        assert left % GRID == top % GRID == 0
        np.testing.assert_array_equal(crop, native[top : top + 64, left : left + 64])


@given(st.integers(0, 2000), st.integers(0, 2000), st.integers(1, 8))
def test_crops_lie_inside_and_differ_while_there_is_room(free_x, free_y, views):
    corners = crop_corners(64 + free_x, 64 + free_y, 64, views)
    assert all(0 <= x <= free_x and 0 <= y <= free_y for x, y in corners)
    places = (free_x // GRID + 1) * (free_y // GRID + 1)
    assert len(set(corners)) == min(views, places)


@given(st.integers(0, 2000), st.integers(0, 2000), st.integers(1, 7))
def test_fewer_views_are_a_prefix_of_more(free_x, free_y, views):
    more = crop_corners(64 + free_x, 64 + free_y, 64, views + 1)
    assert crop_corners(64 + free_x, 64 + free_y, 64, views) == more[:-1]


def test_one_crop_is_the_centre_and_five_add_the_corners():
    assert crop_corners(1024, 1024, 256, 1) == ((384, 384),)
    corners = {(0, 0), (0, 768), (768, 0), (768, 768)}
    assert set(crop_corners(1024, 1024, 256, 5)) == {(384, 384)} | corners


def test_crops_of_a_small_image_come_from_the_enlarged_one():
    image = noise(40, 90)
    crops = preprocess(image, Preprocessing("crop", 64, 3))
    enlarged = np.asarray(image.resize((64, 144), Image.Resampling.BILINEAR))
    for crop, (left, top) in zip(crops, crop_corners(64, 144, 64, 3), strict=True):
        difference = np.abs(crop.astype(int) - enlarged[top : top + 64, left : left + 64])
        assert difference.max() <= 1


def test_an_image_of_the_size_repeats_its_only_crop():
    image = noise(64, 64)
    crops = preprocess(image, Preprocessing("crop", 64, 4))
    np.testing.assert_array_equal(crops, np.stack([np.asarray(image)] * 4))


def test_unit_range_is_torchvisions_to_tensor_and_normalise():
    image = noise(64, 64)
    ours = to_unit_range(preprocess(image, Preprocessing(size=64)))
    reference = normalize(to_tensor(image), [0.5] * 3, [0.5] * 3)
    assert ours.dtype == np.float32
    assert ours.flags.c_contiguous
    torch.testing.assert_close(torch.from_numpy(ours[0]), reference, atol=1e-6, rtol=0)


def test_unit_range_reaches_both_ends():
    ends = np.array([0, 255], np.uint8).reshape(1, 1, 2, 1).repeat(3, -1)
    assert to_unit_range(ends).tolist() == [[[[-1.0, 1.0]]] * 3]


@pytest.mark.parametrize(
    "settings",
    [
        {"name": "squash"},
        {"size": 255},
        {"size": 0},
        {"size": 32},
        {"size": 2056},
        {"views": 3},
        {"name": "crop", "views": 0},
        {"name": "crop", "views": 9},
    ],
)
def test_settings_out_of_range_are_refused(settings):
    with pytest.raises(ConfigError):
        Preprocessing(**settings)


def test_texture_is_the_mean_step_between_neighbours():
    ramp = np.tile(np.arange(64, dtype=np.uint8), (64, 1))
    assert texture(Image.fromarray(ramp)) == 0.5
    assert texture(Image.new("RGB", (9, 1))) == 0
    checks = np.indices((64, 64)).sum(axis=0) % 2 * 255
    assert texture(Image.fromarray(checks.astype(np.uint8))) == 255
    assert texture(Image.fromarray(np.tile(checks.astype(np.uint8), (1, 40)))) == 255


CANONICAL = Preprocessing(canonical=True)


def noisy_image(width: int, height: int) -> Image.Image:
    """Smooth colours with some grain, as a photograph has."""
    random = np.random.default_rng((width, height))
    coarse = Image.fromarray(random.integers(0, 256, (6, 6, 3), dtype=np.uint8))
    smooth = np.asarray(coarse.resize((width, height), Image.Resampling.BICUBIC)).astype(int)
    grain = random.integers(-9, 10, smooth.shape)
    return Image.fromarray(np.clip(smooth + grain, 0, 255).astype(np.uint8))


def saved(image: Image.Image, form: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, form, **options)
    return buffer.getvalue()


def with_chunk(png: bytes, kind: bytes, content: bytes) -> bytes:
    """The PNG with one more chunk before its pixels."""
    check = struct.pack(">I", zlib.crc32(kind + content))
    chunk = struct.pack(">I", len(content)) + kind + content + check
    at = png.index(b"IDAT") - 4
    return png[:at] + chunk + png[at:]


def test_files_of_the_same_pixels_give_the_same_views(tmp_path):
    image = noisy_image(300, 420)
    transparent = image.copy()
    transparent.putalpha(7)
    files = {
        "plain.png": saved(image, "PNG"),
        "chunks.png": with_chunk(saved(image, "PNG", compress_level=1), b"caBX", b"manifest"),
        "lossless.webp": saved(image, "WEBP", lossless=True, exact=True, icc_profile=b"profile"),
        "alpha.png": saved(transparent, "PNG", dpi=(72, 72)),
        "image.bmp": saved(image, "BMP"),
    }
    views = {}
    for name, data in files.items():
        views[name] = preprocess(decode(data), CANONICAL)
    for name, pixels in views.items():
        np.testing.assert_array_equal(pixels, views["plain.png"], err_msg=name)


@settings(max_examples=20, deadline=None)
@given(st.integers(1, 700), st.integers(1, 700), st.sampled_from([64, 128, 256]))
def test_every_canonical_file_says_the_same_of_itself(width, height, side):
    data = canonical_bytes(noisy_image(width, height), side)
    reference = canonical_bytes(noisy_image(640, 480), side)
    with Image.open(io.BytesIO(data)) as image, Image.open(io.BytesIO(reference)) as other:
        assert image.size == other.size == (side, side)
        assert (image.format, image.mode) == ("JPEG", "RGB")
        assert image.quantization == other.quantization
        assert get_sampling(image) == get_sampling(other)
        assert image.info == other.info


def test_a_view_is_the_decoded_canonical_file():
    image = noisy_image(500, 333)
    view = preprocess(image, CANONICAL)[0]
    np.testing.assert_array_equal(view, np.asarray(decode(canonical_bytes(image))))
    np.testing.assert_array_equal(view, np.asarray(canonicalise(image)))
    plain = preprocess(image, Preprocessing())[0].astype(int)
    assert 0 < np.abs(view - plain).mean() < 12


def test_crops_are_cut_from_the_canonical_image_on_its_grid():
    image = noisy_image(900, 700)
    crops = preprocess(image, Preprocessing("crop", 64, 5, canonical=True, canonical_size=128))
    whole = np.asarray(canonicalise(image, 128))
    np.testing.assert_array_equal(crops[0], whole[32:96, 32:96])
    corners = [whole[y : y + 64, x : x + 64] for x in (0, 64) for y in (0, 64)]
    assert all(any((crop == corner).all() for corner in corners) for crop in crops[1:])


def test_a_small_canonical_form_is_enlarged_to_the_view():
    view = preprocess(noisy_image(512, 512), Preprocessing(canonical=True, canonical_size=64))
    assert view.shape == (1, 256, 256, 3)


@pytest.mark.parametrize(
    "options",
    [
        {"canonical_size": 128},
        {"canonical": True, "canonical_size": 250},
        {"canonical": True, "canonical_size": 32},
        {"name": "crop", "views": 2, "canonical": True},
    ],
)
def test_settings_that_make_no_sense_are_refused(options):
    with pytest.raises(ConfigError):
        Preprocessing(**options)


def encoding(preprocessing: Preprocessing) -> Encoding:
    autoencoder = AutoencoderIdentity(
        name="tiny", spec="tiny", kind="tiny", channels=4, scaling_factor=1.0, shift_factor=0.0,
        weights_sha256="0" * 64, source="",
    )  # fmt: skip
    return Encoding(autoencoder, preprocessing, "fp32", "float16")


def test_the_track_is_part_of_the_fingerprint_and_is_named_where_it_differs():
    tracks = [
        Preprocessing(),
        CANONICAL,
        Preprocessing(canonical=True, canonical_size=128),
    ]
    assert len({encoding(track).fingerprint for track in tracks}) == 3
    words = encoding(tracks[0]).difference(encoding(tracks[1]))
    assert words == "preprocessing canonical False against True"
    words = encoding(tracks[1]).difference(encoding(tracks[2]))
    assert words == "preprocessing canonical_size 256 against 128"


@pytest.mark.parametrize(("size", "reduced"), [((1024, 768), (128, 96)), ((200, 100), (200, 100))])
def test_a_thumbnail_of_a_jpeg_is_decoded_at_a_fraction_of_its_size(size, reduced):
    image = noisy_image(*size)
    data = saved(image, "JPEG", quality=95)
    small = decode(data, least=90)
    assert small.size == reduced
    mean = np.asarray(image).mean((0, 1))
    np.testing.assert_allclose(np.asarray(small).mean((0, 1)), mean, atol=1.5)
    with pytest.raises(ImageError):
        decode(data[: len(data) // 2], least=90)


def test_other_formats_are_decoded_whole_for_a_thumbnail():
    image = noisy_image(300, 200)
    np.testing.assert_array_equal(
        np.asarray(decode(saved(image, "PNG"), least=64)), np.asarray(image)
    )


@pytest.mark.parametrize(
    ("size", "expected"),
    [
        ((512, 512), (512, 512)),
        ((2000, 1500), (512, 512)),
        ((300, 1000), (512, 300)),
        ((32, 48), (96, 64)),
        ((1, 1), (64, 64)),
    ],
)
def test_the_native_view_is_bounded(size, expected):
    assert native_view(Image.new("RGB", size, (1, 2, 3))).shape == (*expected, 3)


def test_the_native_view_starts_on_the_grid_of_jpeg_blocks():
    pixels = np.zeros((700, 1001, 3), np.uint8)
    pixels[::8, ::8] = 255
    assert (native_view(Image.fromarray(pixels))[::8, ::8] == 255).all()


@pytest.mark.parametrize("size", [(1100, 900), (1024, 1024), (512, 512), (300, 200), (40, 90)])
def test_an_image_and_its_native_view_are_reduced_alike(size: tuple[int, int]):
    image = tiny_image(3, size)
    native = native_view(image)
    small = reduced_view(native)
    assert small.shape == (REDUCED, REDUCED, 3)
    np.testing.assert_array_equal(small, reduced_view(native_view(Image.fromarray(native))))
    if min(size) >= 64 and max(size) <= MAX_SIDE:
        np.testing.assert_array_equal(small, centre_square(image, REDUCED))


def test_the_reduced_view_is_enlarged_whatever_the_size():
    for size in ((300, 260), (256, 256)):
        image = DecodedImage(tiny_image(1, size), "ab" * 32, SMALL)
        square = Image.fromarray(centre_square(image.image, REDUCED))
        large = np.asarray(square.resize((512, 512), Image.Resampling.LANCZOS))
        np.testing.assert_array_equal(image.enlarged, large)
        np.testing.assert_array_equal(enlarged_view(image.reduced), large)
