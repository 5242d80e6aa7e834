"""The guarantees, as they are stated: on exchangeable images, on exchangeable prompts, by chance.

Rates over many draws of calibrating set and new image are held against binomial bounds so wide
that a right implementation fails once in ten thousand times, with seeds that are fixed anyway.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy.stats import binom

from leaknet.calibration.conformal import (
    FULL_LEVEL,
    alarm_range,
    conformal_p_values,
    depths,
    grouped_bound,
    naming_threshold,
    outside_limit,
    prediction_sets,
    set_levels,
)
from leaknet.calibration.temperature import log_probabilities
from tests.leaknet.calibration.exchangeable import closed

DRAWS = 2000
SCORES: dict[str, Callable[[np.random.Generator, tuple[int, ...]], np.ndarray]] = {
    "normal": lambda rng, shape: rng.standard_normal(shape),
    "heavy": lambda rng, shape: rng.standard_cauchy(shape),
    "ties": lambda rng, shape: rng.integers(0, 4, shape).astype(np.float64),
}


def within_binomial(alarms: int, rate: float) -> bool:
    return alarms <= binom.ppf(1 - 1e-4, DRAWS, rate)


@given(
    reference=hnp.arrays(np.float64, st.integers(0, 30), elements=st.integers(-3, 3)),
    score=st.integers(-4, 4),
)
def test_a_p_value_is_a_count(reference: np.ndarray, score: int) -> None:
    expected = (1 + sum(r <= score for r in reference.tolist())) / (1 + len(reference))
    assert conformal_p_values(reference, np.array([float(score)]))[0] == expected


@settings(max_examples=12, deadline=None, derandomize=True)
@given(
    alpha=st.sampled_from([0.01, 0.05, 0.1, 0.3]),
    images=st.integers(5, 120),
    kind=st.sampled_from(sorted(SCORES)),
)
def test_false_alarms_keep_their_rate_on_exchangeable_images(
    alpha: float, images: int, kind: str
) -> None:
    drawn = SCORES[kind](np.random.default_rng(images), (DRAWS, images + 1))
    p_values = np.array([conformal_p_values(row[:-1], row[-1:])[0] for row in drawn])
    assert within_binomial(int((p_values <= alpha).sum()), alpha)


@settings(max_examples=12, deadline=None, derandomize=True)
@given(
    alpha=st.sampled_from([0.02, 0.05, 0.1]),
    images=st.integers(20, 120),
    strength=st.sampled_from([0.5, 2.0, 8.0]),
)
def test_wrong_names_keep_their_rate_on_exchangeable_images(
    alpha: float, images: int, strength: float
) -> None:
    """Overconfident ones, so that the least probability alone would not keep it."""
    rng = np.random.default_rng(images)
    confidence = -rng.exponential(0.3, (DRAWS, images + 1))
    right = rng.random(confidence.shape) < np.exp(strength * confidence)
    named_wrong = [
        row[-1] > naming_threshold(row[:-1], own[:-1], alpha) and not own[-1]
        for row, own in zip(confidence, right, strict=True)
    ]
    assert within_binomial(sum(named_wrong), alpha)


def test_images_are_named_from_the_lowest_threshold_that_keeps_the_rate() -> None:
    confidence = np.log(np.linspace(0.82, 0.99, 39))
    right = np.ones(39, dtype=bool)
    right[[5, 20, 30]] = False
    assert naming_threshold(confidence, right, 0.05) == confidence[20]
    assert naming_threshold(confidence, right, 0.025) == confidence[30]
    assert naming_threshold(confidence, right, 0.2) == np.log(0.8)
    assert naming_threshold(confidence, right, 0.02) == np.inf


def test_they_are_not_rarer_than_the_count_of_images_makes_them() -> None:
    drawn = np.random.default_rng(0).standard_normal((DRAWS, 100))
    p_values = np.array([conformal_p_values(row[:-1], row[-1:])[0] for row in drawn])
    low, high = binom.ppf([1e-4, 1 - 1e-4], DRAWS, 0.05)
    assert low <= (p_values <= 0.05).sum() <= high


@pytest.mark.parametrize("likeness", [0.5, 1.0])
@pytest.mark.parametrize(("groups", "size"), [(10, 8), (21, 8), (40, 2)])
def test_prompts_that_are_exchangeable_keep_the_wider_bound(
    groups: int, size: int, likeness: float
) -> None:
    rng = np.random.default_rng(groups)
    common = rng.standard_normal((DRAWS, groups + 1, 1))
    own = rng.standard_normal((DRAWS, groups + 1, size))
    drawn = np.sqrt(likeness) * common + np.sqrt(1 - likeness) * own
    for alpha in (0.05, 0.2):
        p_values = np.array([conformal_p_values(one[:-1].ravel(), one[-1, :1])[0] for one in drawn])
        alarms = int((p_values <= alpha).sum())
        assert within_binomial(alarms, grouped_bound(alpha, groups * size, groups))


def test_the_wider_bound_is_needed_and_not_wider_than_needed() -> None:
    # Ten prompts of identical images; at this α one prompt below is no alarm, none below is.
    drawn = np.random.default_rng(0).standard_normal((DRAWS, 11))
    p_values = np.array([conformal_p_values(np.repeat(r[:-1], 8), r[-1:])[0] for r in drawn])
    alpha = 1 / 81
    alarms = int((p_values <= alpha).sum())
    bound = grouped_bound(alpha, 80, 10)
    assert bound == pytest.approx(1 / 11)
    assert not within_binomial(alarms, 2 * alpha)
    assert within_binomial(alarms, bound)
    assert alarms >= binom.ppf(1e-4, DRAWS, bound)


def test_one_image_a_prompt_leaves_the_plain_guarantee() -> None:
    assert grouped_bound(0.05, 40, 40) == pytest.approx(0.05)


def test_the_rate_of_one_calibrating_set_lies_where_it_is_said_to() -> None:
    rng = np.random.default_rng(0)
    low, high = alarm_range(0.1, 99)
    inside = 0
    for _ in range(1000):
        reference = np.sort(rng.uniform(size=99))
        # With uniform scores the rate is the largest score that is still an alarm.
        rate = reference[9]
        assert conformal_p_values(reference, np.array([rate - 1e-9]))[0] <= 0.1
        inside += low <= rate <= high
    assert binom.ppf(1e-4, 1000, 0.95) <= inside <= binom.ppf(1 - 1e-4, 1000, 0.95)
    assert alarm_range(0.005, 99) == (0.0, 0.0)


@pytest.mark.parametrize("alpha", [0.05, 0.2])
@pytest.mark.parametrize("signal", [0.0, 1.0, 4.0])
def test_sets_hold_the_right_generator_as_often_as_stated(alpha: float, signal: float) -> None:
    missed = total = 0
    sizes = []
    for seed in range(150):
        e = closed(10, signal=signal, seed=seed, folds=("val", "test"))
        val, test = e.select("val"), e.select("test")
        reference = log_probabilities(val.logits, 1.3)[np.arange(len(val)), val.targets]
        levels = np.full(len(test), alpha)
        sets = prediction_sets(reference, log_probabilities(test.logits, 1.3), levels)
        missed += int((~sets[np.arange(len(test)), test.targets]).sum())
        total += len(test)
        sizes.append(sets.sum(axis=1).mean())
    # Images of one calibrating set share their fate: the spread is that of 150 sets, not 4,500.
    slack = 4 * np.sqrt(alpha * (1 - alpha) * (1 / total + 1 / (150 * 31)))
    assert missed / total <= alpha + slack
    assert np.mean(sizes) > 3 * (1 - alpha) - 0.2 if signal == 0 else np.mean(sizes) < 2.8


@given(st.lists(st.floats(0.001, 1), min_size=1, max_size=20), st.floats(0.001, 0.5))
def test_levels_fall_with_the_p_value_and_never_exceed_alpha(
    p_values: list[float], alpha: float
) -> None:
    found = set_levels(np.array(p_values), alpha)
    assert (found <= alpha).all()
    for level, p_value in zip(found.tolist(), p_values, strict=True):
        expected = alpha if p_value >= FULL_LEVEL else 2 * alpha * p_value
        assert level == pytest.approx(expected)


def test_sets_shrink_as_alpha_grows_down_to_none() -> None:
    e = closed(30)
    val, test = e.select("val"), e.select("test")
    reference = log_probabilities(val.logits, 1.0)[np.arange(len(val)), val.targets]
    table = log_probabilities(test.logits, 1.0)
    before = np.ones_like(table, dtype=bool)
    for alpha in (0.001, 0.05, 0.3, 0.9):
        members = prediction_sets(reference, table, np.full(len(table), alpha))
        assert not (members & ~before).any()
        before = members
    assert (before.sum(axis=1) == 0).any()


def test_depth_is_measured_by_the_lowest_reference_below_the_median() -> None:
    reference = np.array([0.0, -2.0, 5.0, -8.0, 1.0])
    assert depths(reference, np.array([0.0, -8.0, -24.0, 8.0])).tolist() == [0, 1, 3, -1]
    assert outside_limit(reference) == -24
    assert depths(np.ones(4), np.array([-1e9])).tolist() == [0]
    assert outside_limit(np.ones(4)) is None
