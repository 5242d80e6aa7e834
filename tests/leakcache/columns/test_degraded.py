"""Degraded copies: of training images alone, drawn by content, repeatable."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from leakcache.columns.column import CHAINS, MAX_DEGRADED_SIDE, DecodedImage
from leakcache.columns.statistics import COPY_COUNT
from leakcache.columns.table import COLUMNS
from leakcache.images.preprocess import Preprocessing
from tests.tiny_data import SMALL, tiny_image

DEGRADED = [column for name, column in COLUMNS.items() if name.startswith("degraded")]


def copies_of(image: Image.Image, sha256: str) -> list[Image.Image]:
    return [copy.image for copy in DecodedImage(image, sha256, SMALL).copies]


def test_copies_depend_on_the_content_hash_alone() -> None:
    image = tiny_image(3, (120, 90))
    first, again, other = (copies_of(image, sha * 32) for sha in ("ab", "ab", "cd"))
    assert len(first) == COPY_COUNT == 2
    for one, two in zip(first, again, strict=True):
        np.testing.assert_array_equal(np.asarray(one), np.asarray(two))
    assert not np.array_equal(np.asarray(first[0]), np.asarray(other[0]))
    np.testing.assert_array_equal(np.asarray(first[1]), np.asarray(other[1]))
    assert first[1].size == (256, 256)
    assert len({seed for _, seed in CHAINS}) == len(CHAINS)


def test_large_images_are_cut_before_they_are_degraded() -> None:
    image = Image.fromarray(np.random.default_rng(0).integers(0, 255, (16, 9000, 3), np.uint8))
    assert max(max(copy.size) for copy in copies_of(image, "ef" * 32)) <= 4 * MAX_DEGRADED_SIDE


def test_columns_of_copies_are_of_training_images_alone() -> None:
    assert len(DEGRADED) == 2
    assert all(column.training_only for column in DEGRADED)
    assert not any(COLUMNS[n].training_only for n in ("z0", "pixel_statistics"))


@pytest.mark.parametrize("column", DEGRADED)
def test_views_are_two_of_each_copy(column) -> None:
    image = DecodedImage(tiny_image(3, (120, 90)), "ab" * 32, SMALL)
    views = column.views(image)
    second = {"degraded_pixel_statistics": "reduced"}.get(column.name, "enlarged")
    expected = [v for copy in image.copies for v in (copy.native, getattr(copy, second))]
    for view, pixels in zip(views, expected, strict=True):
        np.testing.assert_array_equal(view.pixels, pixels)


def test_the_canonical_track_degrades_the_canonical_form() -> None:
    cut = Preprocessing(size=64, canonical=True, canonical_size=64)
    image = DecodedImage.of(tiny_image(3, (120, 90)), "ab" * 32, cut)
    assert image.image.size == (64, 64)
    assert image.native.shape == (64, 64, 3)
    assert not image.preprocessing.canonical
    assert replace(image).latent_views.shape == (1, 64, 64, 3)
