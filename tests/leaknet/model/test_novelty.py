"""Only directions that the training images lack have novelty."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.decomposition import PCA

from leaknet.model import novelty as novelty_module
from leaknet.model.inference import embed
from leaknet.model.novelty import AXES, MARGIN, Novelty, log_residual, principal_axes
from tests.leaknet.model.test_statistics_branch import ALONE, data, with_statistics
from tests.leaknet.tiny import fit_tiny, tiny_split

LENGTH = 300


def images(count: int, seed: int, *, beyond: float = 0.0) -> torch.Tensor:
    """Images in 20 strong directions and a weak rest; `beyond` adds one that no other has."""
    generator = torch.Generator().manual_seed(seed)
    fixed = torch.Generator().manual_seed(99)
    strong = torch.randn(20, LENGTH, generator=fixed)
    away = torch.randn(LENGTH, generator=fixed)
    values = torch.randn(count, 20, generator=generator) @ strong
    return values + torch.randn(count, LENGTH, generator=generator) + beyond * away


def groups(count: int) -> np.ndarray:
    return np.array([f"{number // 4}" for number in range(count)])


def test_axes_are_those_of_principal_components():
    values = images(200, 0)
    values -= values.mean(dim=0)
    axes = principal_axes(values)
    expected = PCA(20, svd_solver="full").fit(values.numpy()).components_
    overlap = torch.linalg.svdvals(axes[:, :20].T @ torch.from_numpy(expected).float().T)
    torch.testing.assert_close(overlap, torch.ones(20), atol=1e-3, rtol=0)
    used = axes[:, axes.square().sum(dim=0) > 0]
    torch.testing.assert_close(used.T @ used, torch.eye(used.shape[1]), atol=1e-3, rtol=0)
    assert used.shape[1] == 100 < AXES


def test_residual_is_the_energy_that_axes_leave():
    values = images(50, 1)
    axes = principal_axes(images(200, 0))
    rest = values - values @ axes @ axes.T
    torch.testing.assert_close(
        log_residual(values, axes), rest.square().sum(1).log(), atol=1e-3, rtol=0
    )


def test_new_directions_have_novelty_and_new_images_have_not():
    novelty = Novelty(LENGTH).fit(images(200, 0), groups(200))
    known, strange = novelty(images(400, 1)), novelty(images(400, 2, beyond=2.0))
    assert float((known > MARGIN).float().mean()) < 0.25
    assert float((strange > known.max()).float().mean()) > 0.95
    # Mean and deviation are those of held-out images, so that images of the fit have none.
    assert not novelty(images(200, 0)).any()


def test_with_one_prompt_novelty_is_zero():
    novelty = Novelty(LENGTH).fit(images(30, 0), np.zeros(30))
    assert not novelty(images(30, 1, beyond=9.0)).any()


def test_with_equal_images_novelty_is_zero():
    novelty = Novelty(LENGTH).fit(torch.zeros(8, LENGTH), groups(8))
    assert not novelty(images(30, 1)).any()


def test_two_images_are_enough():
    novelty = Novelty(LENGTH).fit(images(2, 0), np.arange(2))
    assert torch.isfinite(novelty(images(30, 1))).all()


def test_axes_of_many_images_are_fitted_to_some(monkeypatch: pytest.MonkeyPatch):
    values = images(200, 0)
    monkeypatch.setattr(novelty_module, "MAX_IMAGES", 60)
    some = principal_axes(values)
    assert torch.equal(some, principal_axes(values[::4]))


def test_novel_images_move_the_embedding_and_not_the_answer(tmp_path: Path):
    """One coordinate, which density detectors read and gate and prototypes do not."""
    result = fit_tiny(tmp_path / "run", *ALONE, "train.epochs=1", data=data())
    model = result.run.load_model(torch.device("cpu"))
    split = with_statistics(tiny_split(24, "test", seed=5), 5)
    branch, pixels = model.statistics, split["pixel_statistics"]
    assert branch is not None
    away = torch.randn(pixels.shape[-1], generator=torch.Generator().manual_seed(8))
    directions = branch.ridge.weight
    away -= directions @ torch.linalg.lstsq(directions, away[:, None]).solution[:, 0]
    strange = split.with_column("pixel_statistics", (pixels.float() + 1.5 * away).half())
    before, after = embed(model, split), embed(model, strange)
    assert (after.logits.argmax(1) == before.logits.argmax(1)).mean() > 0.9
    assert before.density is not None
    assert after.density is not None
    assert after.density[:, -1].min() > 3 * before.density[:, -1].max()
    farther = torch.from_numpy(before.vectors)
    farther[:, -1] += 100
    logits = model.classify(farther)
    torch.testing.assert_close(logits, torch.from_numpy(before.logits), atol=1e-4, rtol=0)
