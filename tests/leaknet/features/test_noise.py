"""Evaluation noise depends on (seed, image, view, t) and on nothing else."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from leaknet.features.evaluation_noise import evaluation_noise
from leaknet.features.noise import epoch_seed, training_generator, training_noise

SHAPE = (2, 4, 4)


def image_ids(count: int) -> list[str]:
    return [hashlib.sha256(str(index).encode()).hexdigest() for index in range(count)]


@settings(max_examples=30, deadline=None)
@given(st.permutations(range(6)), st.integers(0, 5), st.integers(0, 2**63))
def test_noise_does_not_depend_on_batch_or_order(order: list[int], cut: int, seed: int) -> None:
    ids, steps = image_ids(6), (0, 5, 10)
    together = evaluation_noise(seed, ids, steps, SHAPE)
    shuffled = [ids[index] for index in order]
    parts = [
        evaluation_noise(seed, part, steps, SHAPE) for part in (shuffled[:cut], shuffled[cut:])
    ]
    np.testing.assert_array_equal(np.concatenate(parts), together[order])


def test_noise_of_a_step_does_not_depend_on_the_other_steps() -> None:
    ids = image_ids(2)
    every, one = evaluation_noise(0, ids, (0, 5, 10), SHAPE), evaluation_noise(0, ids, (5,), SHAPE)
    np.testing.assert_array_equal(every[:, 1:2], one)


def test_every_argument_changes_the_noise() -> None:
    first, second = image_ids(2)
    draws = [
        evaluation_noise(0, [first], (0,), SHAPE),
        evaluation_noise(1, [first], (0,), SHAPE),
        evaluation_noise(0, [second], (0,), SHAPE),
        evaluation_noise(0, [first], (1,), SHAPE),
        evaluation_noise(0, [first], (0,), SHAPE, view=1),
    ]
    values = np.concatenate([draw.ravel() for draw in draws])
    assert len(np.unique(values)) == len(values)


def test_noise_is_standard_normal_and_uncorrelated_between_images_and_steps() -> None:
    noise = evaluation_noise(3, image_ids(40), (0, 5), (4, 32, 32))
    assert stats.kstest(noise.ravel()[::7], "norm").pvalue > 1e-3
    rows = noise.reshape(80, -1)
    correlation = np.corrcoef(rows)[~np.eye(80, dtype=bool)]
    assert abs(correlation).max() < 5 / np.sqrt(rows.shape[1])


def test_training_noise_follows_seed_and_epoch() -> None:
    def draw(seed: int, epoch: int) -> torch.Tensor:
        return training_noise(3, 2, SHAPE, training_generator(seed, epoch, torch.device("cpu")))

    assert draw(1, 2).shape == (3, 2, *SHAPE)
    assert torch.equal(draw(1, 2), draw(1, 2))
    assert not torch.equal(draw(1, 2), draw(2, 1))
    assert not torch.equal(draw(1, 2), draw(1, 3))


@given(st.integers(0, 2**40), st.integers(0, 10_000), st.integers(0, 5))
def test_epoch_seeds_fit_a_torch_generator(seed: int, epoch: int, purpose: int) -> None:
    value = epoch_seed(seed, epoch, purpose)
    assert torch.Generator().manual_seed(value).initial_seed() == value


def test_purposes_within_an_epoch_have_different_seeds() -> None:
    seeds = {
        epoch_seed(seed, epoch, use) for seed in range(5) for epoch in range(5) for use in range(3)
    }
    assert len(seeds) == 75


@pytest.mark.parametrize("count", [0, 1])
def test_few_images_are_no_special_case(count: int) -> None:
    assert evaluation_noise(0, image_ids(count), (0, 1), SHAPE).shape == (count, 2, *SHAPE)
