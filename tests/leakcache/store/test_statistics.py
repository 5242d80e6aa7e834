"""Moments per label and fold: what they count, and that they add up."""

from __future__ import annotations

import numpy as np
import pytest

from leakcache.store.moments import LatentMoments, MomentTable


def samples(images: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(seed)
    latents = generator.normal(seed, 1 + seed, (images, 2, 4, 8, 8)).astype(np.float16)
    return latents, generator.normal(size=(images, 2, 4, 3, 3)).astype(np.float16)


def test_pixels_and_views_are_samples_of_a_channel() -> None:
    latents, coefficients = samples(5, 1)
    moments = LatentMoments.of(latents, coefficients)
    exact = latents.astype(np.float64)
    assert moments.latent.count == 5 * 2 * 64
    assert moments.dct.count == 5 * 2
    np.testing.assert_allclose(moments.latent.mean, exact.mean((0, 1, 3, 4)))
    np.testing.assert_allclose(moments.latent.variance, exact.var((0, 1, 3, 4)))
    np.testing.assert_allclose(
        moments.dct.variance, coefficients.astype(np.float64).var((0, 1)), rtol=1e-12
    )


def test_cells_add_up_to_the_moments_of_everything() -> None:
    parts = {
        ("a", "train"): samples(3, 0),
        ("b", "train"): samples(4, 1),
        ("a", "val"): samples(2, 2),
    }
    table = MomentTable.of({cell: LatentMoments.of(*part) for cell, part in parts.items()})
    assert table.cells == (("a", "train"), ("a", "val"), ("b", "train"))
    wanted = [("a", "train"), ("b", "train")]
    together = LatentMoments.of(
        *(np.concatenate([parts[cell][which] for cell in wanted]) for which in (0, 1))
    )
    found = table.total(wanted)
    for part in ("latent", "dct"):
        mine, theirs = getattr(found, part), getattr(together, part)
        assert mine.count == theirs.count
        np.testing.assert_allclose(mine.mean, theirs.mean, rtol=1e-12)
        np.testing.assert_allclose(mine.m2, theirs.m2, rtol=1e-10)


def test_no_cells_are_no_images_and_unknown_cells_are_refused() -> None:
    table = MomentTable.of({("a", "train"): LatentMoments.of(*samples(3, 0))})
    assert table.total([]).latent.count == 0
    assert LatentMoments.empty(4, 3).merge(table.total(table.cells)).dct.count == 6
    with pytest.raises(ValueError, match="not in"):
        table.total([("b", "train")])
