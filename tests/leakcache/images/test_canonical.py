"""The canonical track: whatever a file was, the encoder sees one form of its pixels."""

from __future__ import annotations

import io
import struct
import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from PIL.JpegImagePlugin import get_sampling

from leakcache.encoder.autoencoder import AutoencoderIdentity
from leakcache.errors import ConfigError, ImageError
from leakcache.images.decode import Preprocessing, decode, preprocess
from leakcache.images.preprocess import canonical_bytes, canonicalise
from leakcache.store.manifest import Encoding

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
