"""Ratios: calibrated where the truth is known, bounded by the evidence, measured as defined."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.linear_model import LogisticRegression

from leakcache.errors import ScoringError
from leaknet.calibration.decision import verbal
from leaknet.calibration.likelihood_ratio import (
    ClassRatios,
    cllr,
    min_cllr,
    pav_log10_ratios,
    supported_range,
)
from leaknet.metrics.values import log_odds
from tests.leaknet.calibration.exchangeable import closed


def two_normals(count: int, distance: float, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Two-class logits whose log odds are exactly the log LR of two unit normals."""
    rng = np.random.default_rng(seed)
    targets = np.arange(2 * count) % 2
    x = rng.standard_normal(2 * count) + distance * targets
    odds = distance * x - distance**2 / 2
    return np.stack([np.zeros_like(odds), odds], axis=1), targets


def test_true_log_odds_are_left_as_they_are() -> None:
    logits, targets = two_normals(20_000, 1.5)
    ratios = ClassRatios.fit(logits, targets)
    np.testing.assert_allclose(ratios.slope, 1 / math.log(10), rtol=0.05)
    np.testing.assert_allclose(ratios.offset, 0, atol=0.02)


@settings(max_examples=15, deadline=None)
@given(scale=st.floats(0.01, 100), shift=st.floats(-5, 5))
def test_a_distortion_of_the_log_odds_is_undone(scale: float, shift: float) -> None:
    logits, targets = two_normals(150, 1.0)
    plain = ClassRatios.fit(logits, targets).log10(logits)
    distorted = scale * logits + np.array([0.0, shift])
    np.testing.assert_allclose(
        ClassRatios.fit(distorted, targets).log10(distorted), plain, atol=0.02
    )


def test_each_other_generator_counts_alike_and_one_image_is_added_to_each_side() -> None:
    e = closed(200, folds=("val",))
    rare = e.take(np.flatnonzero((e.targets != 2) | (np.arange(len(e)) % 5 == 0)))
    odds = log_odds(rare.logits)[:, 0]
    own = rare.targets == 0
    counts = np.bincount(rare.targets)
    weight = np.where(own, 1.0, counts[0] / (2 * counts[rare.targets]))
    pseudo = weight / counts[0]
    theirs = LogisticRegression(C=1e9, tol=1e-10, max_iter=1000).fit(
        np.tile(odds, 2)[:, None],
        np.concatenate([own, ~own]),
        sample_weight=np.concatenate([weight, pseudo]),
    )
    ours = ClassRatios.fit(rare.logits, rare.targets)
    assert ours.slope[0] * math.log(10) == pytest.approx(theirs.coef_[0, 0], rel=1e-3)
    assert ours.offset[0] * math.log(10) == pytest.approx(theirs.intercept_[0], abs=1e-3)


def test_classes_that_validation_parts_get_ratios_that_its_size_supports() -> None:
    e = closed(40, signal=60.0, folds=("val",))
    ratios = ClassRatios.fit(e.logits, e.targets)
    table = ratios.log10(e.logits)
    assert table.max() <= math.log10(81)
    assert table.min() >= -math.log10(41)
    assert table.max() > 1.5
    assert np.isfinite(ratios.unbounded(e.logits)).all()


def test_scores_that_say_nothing_support_nothing() -> None:
    e = closed(100, signal=0.0, folds=("val",))
    table = ClassRatios.fit(e.logits, e.targets).log10(e.logits)
    assert np.abs(table).max() < 0.2
    upside_down = ClassRatios.fit(-closed(100).logits, closed(100).targets)
    np.testing.assert_allclose(upside_down.log10(e.logits), 0, atol=1e-9)


def test_a_class_without_validation_images_has_no_ratio() -> None:
    e = closed(20, folds=("val",))
    lacking = e.take(np.flatnonzero(e.targets != 1))
    table = ClassRatios.fit(lacking.logits, lacking.targets).log10(lacking.logits)
    assert np.isnan(table[:, 1]).all()
    assert np.isfinite(table[:, [0, 2]]).all()


def test_the_bound_is_the_last_odds_at_which_heeding_pays() -> None:
    own, other = np.full(20, 3.0), np.full(80, -3.0)
    low, high = supported_range(np.concatenate([own, other]), np.arange(100) < 20)
    # One more misleading image among 81: heeding costs t / 81, which reaches 1 at t = 81.
    assert high == pytest.approx(math.log10(81), abs=0.011)
    assert low == pytest.approx(-math.log10(21), abs=0.011)
    worse = other.copy()
    worse[:4] = 3.0
    _, less = supported_range(np.concatenate([own, worse]), np.arange(100) < 20)
    assert less == pytest.approx(math.log10(81 / 5), abs=0.011)


def test_cllr_is_its_definition() -> None:
    log10 = np.array([0.0, 1.0, -0.5, 2.0])
    own = np.array([True, True, False, False])
    missed = np.mean([math.log2(1 + 1 / 1), math.log2(1 + 1 / 10)])
    misled = np.mean([math.log2(1 + 10**-0.5), math.log2(1 + 100)])
    assert cllr(log10, own) == pytest.approx((missed + misled) / 2)
    assert cllr(np.zeros(4), own) == 1
    assert cllr(np.array([9.0, 9, -9, -9]), own) < 1e-8
    with pytest.raises(ScoringError, match="there are 4 and 0"):
        cllr(log10, np.ones(4, dtype=bool))


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 10_000), count=st.integers(2, 60))
def test_the_minimum_is_below_every_monotone_map(seed: int, count: int) -> None:
    logits, targets = two_normals(count, 1.0, seed)
    scores, own = log_odds(logits)[:, 1], targets == 1
    least = min_cllr(scores, own)
    assert 0 <= least <= 1
    for slope, offset in ((0.43, 0.0), (1.0, 0.3), (0.01, 0.0)):
        assert least <= cllr(slope * scores + offset, own) + 1e-9
    assert min_cllr(np.exp(scores / 9), own) == pytest.approx(least)
    found = pav_log10_ratios(scores, own)[np.argsort(scores)]
    assert found.tolist() == sorted(found.tolist())


def test_a_perfect_order_costs_nothing() -> None:
    own = np.arange(10) >= 4
    assert min_cllr(np.arange(10.0), own) == 0
    assert min_cllr(np.zeros(10), own) == 1


@pytest.mark.parametrize(
    ("ratio", "words"),
    [
        (1.0, "no support either way"),
        (1.9, "no support either way"),
        (2.1, "weak support for it"),
        (50.0, "moderate support for it"),
        (0.02, "moderate support against it"),
        (200.0, "moderately strong support for it"),
        (2000.0, "strong support for it"),
        (1e-5, "very strong support against it"),
        (2e6, "extremely strong support for it"),
        (math.nan, "no validation images"),
    ],
)
def test_the_scale_in_words(ratio: float, words: str) -> None:
    assert verbal(math.log10(ratio)) == words
