"""Columns of degraded copies, and tiles of the highest contrast."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from PIL import Image

from leakcache.images.preprocess import Preprocessing
from leakcache.store.column import CHAINS, MAX_DEGRADED_SIDE, DecodedImage
from leakcache.store.columns import COLUMNS, COPY_COUNT, ContrastTiles, contrast
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


GREYS = arrays.arrays(np.uint8, st.tuples(st.integers(1, 6), st.integers(6, 14)))


def by_matrix(grey: np.ndarray) -> float:
    """Σ p(i, j)·(i − j)² over the symmetric, normed co-occurrence matrix of 256 levels."""
    matrix = np.zeros((256, 256))
    for row in grey.tolist():
        for left, right in zip(row, row[5:], strict=False):
            matrix[left, right] += 1
            matrix[right, left] += 1
    i, j = np.indices(matrix.shape)
    return float((matrix / matrix.sum() * (i - j) ** 2).sum())


@settings(max_examples=40, deadline=None)
@given(GREYS)
def test_contrast_is_that_of_the_cooccurrence_matrix(grey):
    assert contrast(grey) == pytest.approx(by_matrix(grey), rel=1e-12, abs=1e-9)


def test_contrast_of_a_ramp_is_its_step_squared():
    ramp = np.tile(np.arange(40, dtype=np.uint8) * 3, (4, 1))
    assert contrast(ramp) == 15.0**2


def noisy(width: int, height: int, box: tuple[int, int, int, int]) -> Image.Image:
    pixels = np.full((height, width, 3), 100, np.uint8)
    left, top, right, bottom = box
    noise = np.random.default_rng(0).integers(0, 256, (bottom - top, right - left, 1), np.uint8)
    pixels[top:bottom, left:right] = noise
    return Image.fromarray(pixels)


def test_the_tile_with_most_contrast_comes_first():
    image = noisy(96, 64, (64, 32, 96, 64))
    tiles = ContrastTiles(32, 3)(image)
    assert tiles.shape == (3, 32, 32, 3)
    np.testing.assert_array_equal(tiles[0], np.asarray(image)[32:, 64:])
    assert (tiles[1:] == 100).all()


def test_tiles_cover_a_picture_to_its_edges_and_overlap():
    image = noisy(80, 32, (79, 0, 80, 32))
    tiles = ContrastTiles(32, 3)(image)
    np.testing.assert_array_equal(tiles[0], np.asarray(image)[:, 48:])
    assert (tiles[1:] == 100).all()


def test_too_few_tiles_are_repeated_in_turn():
    image = noisy(64, 32, (0, 0, 32, 32))
    tiles = ContrastTiles(32, 5)(image)
    for place in (0, 2, 4):
        np.testing.assert_array_equal(tiles[place], np.asarray(image)[:, :32])
    assert (tiles[[1, 3]] == 100).all()


@settings(max_examples=20, deadline=None)
@given(st.integers(1, 90), st.integers(1, 90))
def test_any_picture_gives_tiles_of_one_shape(width, height):
    cut = ContrastTiles(32, 5)
    image = noisy(width, height, (0, 0, width, height))
    assert cut(image).shape == cut.plain_spec.shape
