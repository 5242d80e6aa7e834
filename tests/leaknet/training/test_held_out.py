"""Validation images keep embeddings by fits that know neither them nor their prompts."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from leakcache.errors import RunError
from leaknet.data.columns import ImageColumns, TrainingData
from leaknet.model.branch import HELD_OUT
from leaknet.model.statistics_branch import StatisticsBranch
from leaknet.model.statistics_fit import fit_embedding
from leaknet.scoring.run_embeddings import known_embeddings
from leaknet.training.run_folder import FILE, with_held_out
from leaknet.training.train import TrainResult
from tests.leaknet.model.test_statistics_branch import ALONE, data, new_branch
from tests.leaknet.tiny import CLASSES, fit_tiny

CPU = torch.device("cpu")


@pytest.fixture
def trained(tmp_path: Path) -> TrainResult:
    return fit_tiny(tmp_path / "run", *ALONE, "train.epochs=1", data=data())


def scores(branch: StatisticsBranch, embedding: torch.Tensor) -> torch.Tensor:
    return branch.class_part(embedding) @ branch.directions[: len(CLASSES)].T


def test_pure_noise_is_named_no_better_than_by_chance_though_it_was_fitted_to():
    both = data()
    generator = torch.Generator().manual_seed(3)

    def noisy(images: ImageColumns) -> ImageColumns:
        values = torch.randn(images["pixel_statistics"].shape, generator=generator)
        return images.with_column("pixel_statistics", values.half())

    noise = replace(both, train=noisy(both.train), val=noisy(both.val))
    branch = new_branch()
    _, held_out = fit_embedding(branch, noise, CLASSES)
    targets = noise.val.targets(CLASSES)
    fitted = scores(branch, branch.embed(noise.val)[0].detach()).argmax(dim=1)
    unseen = scores(branch, held_out).argmax(dim=1)
    assert (fitted == targets).float().mean() > 0.9
    assert (unseen == targets).float().mean() < 0.6


def test_a_run_embeds_its_validation_images_by_these_fits(trained: TrainResult):
    both: TrainingData = data()
    run, model = trained.run, trained.run.load_model(CPU)
    assert model.statistics is not None
    known = known_embeddings(run, model, (both.train, both.val))
    val = torch.from_numpy(known.select("val").vectors)
    expected = with_held_out(run.path, both.val)[HELD_OUT]
    torch.testing.assert_close(val, expected)
    own = model.statistics.embed(both.val)[0]
    assert (val - own).abs().max() > 0.1
    train = torch.from_numpy(known.select("train").vectors)
    torch.testing.assert_close(train, model.statistics.embed(both.train)[0])


def test_a_run_without_them_is_refused(trained: TrainResult):
    val = data().val
    (trained.run.path / FILE).unlink()
    with pytest.raises(RunError, match=r"held_out\.safetensors is missing: restore it"):
        with_held_out(trained.run.path, val)


def test_other_validation_images_are_refused(trained: TrainResult):
    val = data().val
    other = replace(val, hashes=np.roll(np.char.add(val.hashes, "0"), 1))
    assert HELD_OUT not in with_held_out(trained.run.path, other)
    mixed = replace(val, hashes=np.where(np.arange(len(val)) < 3, other.hashes, val.hashes))
    with pytest.raises(RunError, match="fitted to other validation images"):
        with_held_out(trained.run.path, mixed)
