from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import softmax
from sklearn.metrics import (
    accuracy_score,
    balanced_accuracy_score,
    confusion_matrix,
    roc_auc_score,
)

from leakcache.errors import ScoringError
from leaknet.metrics import closed_scores, closed_values, expected_calibration_error

CLASSES = ("a", "b", "c", "d")


def problem(seed: int, n: int = 60) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    targets = np.concatenate([np.arange(4), rng.integers(0, 4, n - 4)])
    # Rounded, so that images tie.
    logits = np.round(2 * rng.standard_normal((n, 4)) + 2 * np.eye(4)[targets], 0)
    return logits, targets


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 10_000))
def test_equals_scikit_learn(seed: int) -> None:
    logits, targets = problem(seed)
    ours = closed_scores(logits, targets, CLASSES)
    taken = logits.argmax(axis=1)
    probabilities = np.round(softmax(logits, axis=1), 12)
    assert ours.top1 == pytest.approx(accuracy_score(targets, taken))
    assert ours.balanced == pytest.approx(balanced_accuracy_score(targets, taken))
    np.testing.assert_array_equal(ours.confusion, confusion_matrix(targets, taken))
    expected = roc_auc_score(targets, probabilities, multi_class="ovr", average="macro")
    assert ours.macro_auc == pytest.approx(expected)


def test_areas_do_not_saturate_where_probabilities_do() -> None:
    targets = np.array([0, 0, 1, 1])
    margins = np.array([900.0, 800, 750, -100])  # the softmax of the first three is exactly 1
    ours = closed_scores(np.stack([margins, np.zeros(4)], axis=1), targets, ("a", "b"))
    assert ours.macro_auc == 1


def test_an_absent_class_has_no_area_and_is_left_out_of_the_mean() -> None:
    logits, targets = problem(0)
    kept = targets != 2
    ours = closed_scores(logits[kept], targets[kept], CLASSES)
    assert np.isnan(ours.per_class_auc).tolist() == [False, False, True, False]
    assert ours.macro_auc == pytest.approx(np.nanmean(ours.per_class_auc))
    assert ours.as_dict()["per_class_auc"]["c"] is None
    json.dumps(ours.as_dict(), allow_nan=False)


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 1000))
def test_weights_are_repetitions(seed: int) -> None:
    logits, targets = problem(seed)
    repeats = np.random.default_rng(seed).integers(0, 3, len(targets))
    repeats[:4] = 1
    weighted = closed_values(logits, targets, repeats[None].astype(float))
    again = closed_values(np.repeat(logits, repeats, axis=0), np.repeat(targets, repeats))
    for name, value in again.items():
        assert weighted[name][0] == pytest.approx(value[0]), name


def test_weights_that_leave_a_class_out_leave_its_area_out() -> None:
    logits, targets = problem(1)
    weights = np.stack([np.ones(60), (targets != 3).astype(float)])
    values = closed_values(logits, targets, weights)
    kept = targets != 3
    alone = closed_values(logits[kept], targets[kept])
    for name in ("top1", "balanced", "macro_auc", "ece"):
        assert values[name][1] == pytest.approx(alone[name][0])


def test_calibration_error_of_a_calibrated_forecast_is_small_and_of_a_boast_is_the_gap() -> None:
    rng = np.random.default_rng(0)
    confidence = rng.random(50_000)
    calibrated = rng.random(50_000) < confidence
    assert expected_calibration_error(confidence, calibrated)[0] < 0.01
    boast = np.full(10, 0.95)
    half = np.arange(10) < 5
    assert expected_calibration_error(boast, half)[0] == pytest.approx(0.45)
    assert expected_calibration_error(np.ones(3), np.ones(3, dtype=bool))[0] == 0


@pytest.mark.parametrize(
    ("logits", "targets", "message"),
    [
        (np.zeros((0, 2)), np.zeros(0, dtype=int), "no images"),
        (np.array([[0, np.nan], [1, 0]]), np.array([0, 1]), "NaN"),
        (np.zeros((2, 2)), np.array([0, -1]), "no known class"),
        (np.zeros((2, 2)), np.array([0, 2]), "no known class"),
        (np.zeros((2, 2)), np.array([1, 1]), "one class"),
    ],
)
def test_refuses_what_cannot_be_judged(
    logits: np.ndarray, targets: np.ndarray, message: str
) -> None:
    with pytest.raises(ScoringError, match=message):
        closed_scores(logits, targets, ("a", "b"))


def test_two_classes_share_one_area() -> None:
    logits, targets = problem(3)
    two = targets < 2
    ours = closed_scores(logits[two, :2], targets[two], ("a", "b"))
    expected = roc_auc_score(targets[two], logits[two, 1] - logits[two, 0])
    np.testing.assert_allclose(ours.per_class_auc, expected)
