"""Views: torchvision's resize and centre crop, and crops of native pixels."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torchvision.transforms import v2
from torchvision.transforms.functional import normalize, to_tensor

from leakcache.errors import ConfigError
from leakcache.images import preprocess as resize
from leakcache.images.decode import Preprocessing, preprocess, to_unit_range
from leakcache.images.preprocess import GRID, crop_corners, texture


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
