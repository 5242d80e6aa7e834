"""Views for statistics: native and bounded, on the grid of JPEG blocks, reduced alike."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from leakcache.columns.column import DecodedImage
from leakcache.images.preprocess import (
    MAX_SIDE,
    REDUCED,
    centre_square,
    enlarged_view,
    native_view,
    reduced_view,
)
from tests.tiny_data import SMALL, tiny_image


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
