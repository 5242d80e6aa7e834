from __future__ import annotations

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
    top_k_accuracy_score,
)

from leakcache.errors import ScoringError
from leaknet.metrics import closed_values, expected_calibration_error
from leaknet.metrics.values import confusion, per_class_auc, true_rank


def plain(logits: np.ndarray, targets: np.ndarray) -> dict[str, float]:
    return {name: float(value[0]) for name, value in closed_values(logits, targets).items()}


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
    ours = plain(logits, targets)
    taken = logits.argmax(axis=1)
    probabilities = np.round(softmax(logits, axis=1), 12)
    assert ours["top1"] == pytest.approx(accuracy_score(targets, taken))
    assert ours["balanced"] == pytest.approx(balanced_accuracy_score(targets, taken))
    np.testing.assert_array_equal(confusion(logits, targets), confusion_matrix(targets, taken))
    expected = roc_auc_score(targets, probabilities, multi_class="ovr", average="macro")
    assert ours["macro_auc"] == pytest.approx(expected)


def test_areas_do_not_saturate_where_probabilities_do() -> None:
    targets = np.array([0, 0, 1, 1])
    margins = np.array([900.0, 800, 750, -100])  # the softmax of the first three is exactly 1
    assert plain(np.stack([margins, np.zeros(4)], axis=1), targets)["macro_auc"] == 1


def test_an_absent_class_has_no_area_and_is_left_out_of_the_mean() -> None:
    logits, targets = problem(0)
    kept = targets != 2
    areas = per_class_auc(logits[kept], targets[kept])[0]
    assert np.isnan(areas).tolist() == [False, False, True, False]
    assert plain(logits[kept], targets[kept])["macro_auc"] == pytest.approx(np.nanmean(areas))


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 1000))
def test_top5_is_that_of_scikit_learn_with_more_than_ten_classes(seed: int) -> None:
    rng = np.random.default_rng(seed)
    targets = np.concatenate([np.arange(12), rng.integers(0, 12, 40)])
    logits = rng.standard_normal((52, 12)) + np.eye(12)[targets]
    expected = top_k_accuracy_score(targets, logits, k=5)
    assert plain(logits, targets)["top5"] == pytest.approx(expected)
    assert "top5" not in plain(logits[targets < 10, :10], targets[targets < 10])


def test_of_equal_scores_the_first_class_leads() -> None:
    ranks = true_rank(np.zeros((3, 3)), np.arange(3))
    assert ranks.tolist() == [0, 1, 2]


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
def test_refuses_what_cannot_be_evaluated(
    logits: np.ndarray, targets: np.ndarray, message: str
) -> None:
    with pytest.raises(ScoringError, match=message):
        closed_values(logits, targets)


def test_two_classes_share_one_area() -> None:
    logits, targets = problem(3)
    two = targets < 2
    expected = roc_auc_score(targets[two], logits[two, 1] - logits[two, 0])
    np.testing.assert_allclose(per_class_auc(logits[two, :2], targets[two])[0], expected)
