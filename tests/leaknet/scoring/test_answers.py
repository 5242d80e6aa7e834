"""Mild changes: deterministic, mild, and eight of them."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from leaknet.scoring.answers import VARIANTS, Stability, stability_of, variants_of
from tests.tiny_data import tiny_image

IMAGE = tiny_image(0, (120, 96))


def by_name(image: Image.Image) -> dict[str, Image.Image]:
    return dict(zip(VARIANTS, variants_of(image), strict=True))


def test_there_are_eight_and_they_repeat() -> None:
    once, again = by_name(IMAGE), by_name(IMAGE.copy())
    assert len(once) == 8
    assert all(np.array_equal(once[name], again[name]) for name in once)
    assert all(image.mode == "RGB" for image in once.values())


def test_each_differs_from_the_image_and_from_the_others() -> None:
    seen = {IMAGE.tobytes(), *(image.tobytes() for image in variants_of(IMAGE))}
    assert len(seen) == 9


@pytest.mark.parametrize("name", ["jpeg95", "jpeg85", "jpeg75", "webp90"])
def test_re_encoding_keeps_the_picture(name: str) -> None:
    change = np.asarray(by_name(IMAGE)[name], float) - np.asarray(IMAGE, float)
    assert 0 < np.abs(change).mean() < 8


def test_lower_quality_strays_further() -> None:
    errors = [
        np.square(np.asarray(by_name(IMAGE)[name], float) - np.asarray(IMAGE, float)).mean()
        for name in ("jpeg95", "jpeg85", "jpeg75")
    ]
    assert errors == sorted(errors)


def test_geometry() -> None:
    images = by_name(IMAGE)
    assert images["scale0.9"].size == (108, 86)
    assert images["scale1.1"].size == (132, 106)
    np.testing.assert_array_equal(images["flip"], np.asarray(IMAGE)[:, ::-1])
    np.testing.assert_array_equal(images["crop8"], np.asarray(IMAGE)[8:-8, 8:-8])


@pytest.mark.parametrize("size", [(1, 1), (3, 200), (32, 32)])
def test_small_images_survive(size: tuple[int, int]) -> None:
    images = by_name(tiny_image(1, size))
    assert images["crop8"].size == size
    assert all(min(image.size) >= 1 for image in images.values())


def test_what_changed_is_named() -> None:
    answers = ["known: a"] * 9
    answers[3] = "unsure"
    found = stability_of(answers)
    assert found.changed == {"jpeg75": "unsure"}
    assert (found.same, found.as_dict()["of"]) == (7, 8)
    assert found.as_dict()["variants"]["flip"] == "known: a"
    assert Stability("unsure", {}).changed == {}
