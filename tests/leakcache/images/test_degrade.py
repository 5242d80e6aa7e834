"""Degradations: pure draws, whole images, ranges, and copies that can be told apart."""

from __future__ import annotations

import hashlib
import json
import math
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from tiny_data import tiny_image

from leakcache.errors import ConfigError, ImageError
from leakcache.images.degrade import (
    OPERATIONS,
    Blur,
    Contrast,
    Crop,
    Greyscale,
    Jpeg,
    Resize,
    Rotation,
    SuperResolution,
    Webp,
    degrade,
    largest_upright,
    operations,
)

HASHES = [hashlib.sha256(bytes([number])).hexdigest() for number in range(200)]
hashes = st.sampled_from(HASHES)
steps = st.integers(1, 3)


@given(hashes, steps, st.integers(0, 2**40))
def test_the_draw_depends_on_seed_hash_and_step_alone(sha256, step, seed):
    chain = operations(step, seed, sha256)
    operations(2, 7, HASHES[0])
    assert operations(step, seed, sha256) == chain
    assert len({type(operation) for operation in chain}) == step


def test_the_draw_does_not_change_between_versions():
    drawn = [operation.record() for operation in operations(3, 0, HASHES[2])]
    assert drawn == [
        {"name": "resize", "factor": 0.884, "kernel": "lanczos"},
        {"name": "contrast", "factor": 1.156},
        {"name": "rotation", "degrees": -12.302, "kernel": "bilinear"},
    ]


def test_other_seeds_hashes_and_steps_draw_other_operations():
    def drawn(step=1, seed=0):
        return [operations(step, seed, sha256)[0] for sha256 in HASHES]

    alike = sum(a == b for a, b in zip(drawn(), drawn(seed=1), strict=True))
    assert alike < 20
    assert sum(a == b for a, b in zip(drawn(), drawn(step=2), strict=True)) < 20
    counts = Counter(operation.name for operation in drawn())
    assert len(counts) == len(OPERATIONS)
    assert max(counts.values()) < 3 * len(HASHES) / len(OPERATIONS)


@settings(max_examples=60, deadline=None)
@given(hashes, steps, st.integers(1, 40), st.integers(1, 40))
def test_any_image_gives_an_rgb_image_and_a_record_that_json_repeats(sha256, step, width, height):
    image = tiny_image(1, (width, height))
    before = image.tobytes()
    degraded, chain = degrade(image, step, 0, sha256)
    assert degraded.mode == "RGB"
    assert min(degraded.size) >= 1
    assert image.tobytes() == before
    kinds = {kind.name: kind for kind in OPERATIONS}
    again = image
    for row in json.loads(json.dumps([operation.record() for operation in chain])):
        again = kinds[row.pop("name")](**row).apply(again)
    assert again.tobytes() == degraded.tobytes()


@pytest.mark.parametrize("kind", [kind for kind in OPERATIONS if kind is not Greyscale])
def test_every_operation_changes_the_pixels(kind):
    image = tiny_image(2)
    chain = [
        operation
        for sha256 in HASHES
        for operation in operations(3, 0, sha256)
        if isinstance(operation, kind)
    ]
    assert len(chain) > 20
    changed = [operation.apply(image).tobytes() != image.tobytes() for operation in chain[:10]]
    assert all(changed)


def test_greyscale_has_one_value_a_pixel():
    grey = np.asarray(Greyscale().apply(tiny_image(3)))
    assert (grey == grey[..., :1]).all()


def test_compression_loses_more_at_a_lower_quality():
    image = tiny_image(4, (96, 80))

    def loss(operation):
        return np.square(np.asarray(operation.apply(image), float) - np.asarray(image)).mean()

    for low, high in ((Jpeg(30, "4:2:0"), Jpeg(95, "4:2:0")), (Webp(30), Webp(95))):
        assert loss(low) > 2 * loss(high)
        assert low.apply(image).size == image.size
    assert loss(Jpeg(80, "4:2:0")) > loss(Jpeg(80, "4:4:4"))


def test_blur_and_super_resolution_take_fine_detail():
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8))

    def fine(image):
        return np.abs(np.fft.fft2(np.asarray(image, float)[..., 0]))[24:40, 24:40].mean()

    assert fine(Blur(1.0).apply(noise)) < 0.2 * fine(noise)
    assert fine(SuperResolution(3.0, 100).apply(noise)) < 0.3 * fine(noise)
    assert SuperResolution(3.0, 100).apply(noise).size == noise.size


def test_contrast_keeps_the_mean():
    image = tiny_image(5)
    flat = np.asarray(Contrast(0.7).apply(image), float)
    assert flat.std() == pytest.approx(0.7 * np.asarray(image, float).std(), rel=0.05)


def test_crop_takes_native_pixels_from_where_it_says():
    image = tiny_image(6, (40, 20))
    part = np.asarray(Crop(0.6, 1.0, 0.0).apply(image))
    assert (part == np.asarray(image)[:12, 16:]).all()


def test_resize_scales_both_sides():
    assert Resize(0.5, "bicubic").apply(tiny_image(7, (41, 20))).size == (20, 10)


@given(st.integers(1, 400), st.integers(1, 400), st.floats(0.03, math.pi / 2 - 0.03))
def test_the_upright_part_fits_into_the_turned_one(width, height, angle):
    across, down = largest_upright(width, height, angle)
    sine, cosine = math.sin(angle), math.cos(angle)
    assert (across * cosine + down * sine <= width + 1e-6) or across == 1 or down == 1
    assert (across * sine + down * cosine <= height + 1e-6) or across == 1 or down == 1


def test_the_upright_part_of_a_square_is_known():
    side = largest_upright(1000, 1000, math.pi / 4)
    assert side == (707, 707)
    assert largest_upright(300, 200, 0.0) == (300, 200)


@pytest.mark.parametrize("degrees", [-30.0, -7.5, 2.0, 20.0])
@pytest.mark.parametrize("size", [(90, 60), (60, 90), (150, 30)])
def test_a_turned_image_has_no_empty_corners(degrees, size):
    white = Image.new("RGB", size, "white")
    assert np.asarray(Rotation(degrees, "bilinear").apply(white)).min() > 240


def test_an_unknown_step_is_refused():
    with pytest.raises(ConfigError, match="use 1, 2 or 3"):
        degrade(tiny_image(0), 4, 0, HASHES[0])


def test_an_image_too_large_for_an_operation_is_refused_with_the_reason():
    wide = Image.new("RGB", (16_400, 1))
    with pytest.raises(ImageError, match="16400x1 pixels cannot be written as WEBP"):
        Webp(80).apply(wide)
    with pytest.raises(ImageError, match="more than"):
        Resize(1.5, "bilinear").apply(Image.new("RGB", (16_000, 5_000)))
