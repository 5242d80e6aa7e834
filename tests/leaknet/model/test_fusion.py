"""Fusion weights: non-negative, zero where a branch adds nothing, and then without effect."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from leaknet.calibration.temperature import negative_log_likelihood
from leaknet.model.fusion import Fusion, fit_fusion

CLASSES = 4


def scores(strength: float, count: int, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Logits that point to the class with this strength, classes and prompt groups."""
    rng = np.random.default_rng(seed)
    targets = np.arange(count) % CLASSES
    logits = strength * np.eye(CLASSES)[targets] + rng.standard_normal((count, CLASSES))
    return logits, targets, np.arange(count) // CLASSES


@settings(max_examples=20, deadline=None)
@given(st.floats(-2, 3), st.floats(0.5, 3), st.integers(0, 99))
def test_weights_are_a_distribution_over_branches(one: float, two: float, seed: int) -> None:
    first, targets, groups = scores(one, 80, seed)
    second, _, _ = scores(two, 80, seed + 1000)
    fusion = fit_fusion({"latents": first, "statistics": second}, targets, groups)
    weights = list(fusion.weights.values())
    assert min(weights) >= 0
    assert sum(weights) == pytest.approx(1)
    assert 1.0 in fusion.coefficients.values()


def test_two_equally_good_branches_are_better_together_than_either() -> None:
    first, targets, groups = scores(1.5, 400, 0)
    second, _, _ = scores(1.5, 400, 1)
    fusion = fit_fusion({"latents": first, "statistics": second}, targets, groups)
    assert min(fusion.weights.values()) > 0.3
    new = [scores(1.5, 400, seed) for seed in (2, 3)]
    a, b = fusion.coefficients["latents"], fusion.coefficients["statistics"]
    fused = a * new[0][0] + b * new[1][0]
    alone = [negative_log_likelihood(logits, targets, 1.0) for logits, _, _ in new]
    assert negative_log_likelihood(fused, targets, 1.0) < min(alone)
    assert fusion.gain > 2 * fusion.error


@pytest.mark.parametrize("seed", range(5))
def test_a_branch_of_noise_has_weight_zero_and_leaves_the_other_as_it_is(seed: int) -> None:
    first, targets, groups = scores(0.0, 200, seed)
    second, _, _ = scores(2.0, 200, seed + 50)
    fusion = fit_fusion({"latents": first, "statistics": second}, targets, groups)
    assert fusion.weights == {"latents": 0.0, "statistics": 1.0}
    assert fusion.coefficients == {"latents": 0.0, "statistics": 1.0}


def test_a_single_prompt_group_leaves_the_best_branch_alone() -> None:
    first, targets, _ = scores(1.5, 40, 0)
    second, _, _ = scores(1.0, 40, 1)
    fusion = fit_fusion({"latents": first, "statistics": second}, targets, np.zeros(40))
    assert fusion.weights == {"latents": 1.0, "statistics": 0.0}


def test_one_branch_alone_has_all_the_weight() -> None:
    fusion = Fusion.alone(("latents", "statistics"), "statistics")
    assert fusion.coefficients == {"latents": 0.0, "statistics": 1.0}
