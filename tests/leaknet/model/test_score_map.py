"""Score maps: the regression against scikit-learn, gains where classes are confused, no leaks."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.special import log_softmax
from sklearn.linear_model import LogisticRegression

from leaknet.model import fusion
from leaknet.model.fusion import ScoreMap, fit_score_map

CLASSES = 4


def outputs(count: int, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Outputs in which class 1 is mistaken for class 0, classes and prompt groups."""
    rng = np.random.default_rng(seed)
    targets = np.arange(count) % CLASSES
    mean = np.eye(CLASSES)
    mean[1] = [1.0, 0.5, 0.4, -0.4]
    found = 3 * mean[targets] + rng.standard_normal((count, CLASSES))
    return found, targets, np.arange(count) // CLASSES


def apply(fitted: ScoreMap, **values: np.ndarray) -> np.ndarray:
    each = [(v - v.mean(axis=1, keepdims=True)) @ fitted.weights[n] for n, v in values.items()]
    return np.asarray(sum(each) + fitted.bias)


def loss(scores: np.ndarray, targets: np.ndarray) -> float:
    return -float(log_softmax(scores, axis=1)[np.arange(len(targets)), targets].mean())


def test_it_learns_which_classes_are_confused():
    first, targets, groups = outputs(400, 0)
    new, new_targets, _ = outputs(400, 1)
    fitted = fit_score_map({"ridge": first}, targets, groups)
    scores = apply(fitted, ridge=new)
    assert loss(scores, new_targets) < loss(new, new_targets) - 0.05
    assert (scores.argmax(1) == new_targets).mean() > (new.argmax(1) == new_targets).mean() + 0.02


def test_two_fits_are_better_together_than_either():
    first, targets, groups = outputs(400, 0)
    second = outputs(400, 10)[0]
    new, other = outputs(400, 1), outputs(400, 11)[0]
    both = fit_score_map({"ridge": first, "ratios": second}, targets, groups)
    found = loss(apply(both, ridge=new[0], ratios=other), new[1])
    for name, train, values in (("ridge", first, new[0]), ("ratios", second, other)):
        alone = fit_score_map({name: train}, targets, groups)
        assert found < loss(apply(alone, **{name: values}), new[1])


def test_held_out_scores_have_not_seen_their_prompt():
    """Labels without a relation to the outputs: held-out scores are no better than chance."""
    rng = np.random.default_rng(3)
    targets = np.repeat(np.arange(CLASSES), 20)
    values = rng.standard_normal((80, CLASSES))
    fitted = fit_score_map({"ridge": values}, targets, np.arange(80) % 20)
    assert loss(fitted.held_out, targets) > np.log(CLASSES) - 0.05
    assert loss(apply(fitted, ridge=values), targets) < loss(fitted.held_out, targets)


def test_one_prompt_group_leaves_the_calibrated_sum():
    values, targets, _ = outputs(40, 0)
    fitted = fit_score_map({"ridge": values}, targets, np.zeros(40))
    matrix = fitted.weights["ridge"]
    np.testing.assert_allclose(matrix, matrix[0, 0] * np.eye(CLASSES), atol=1e-12)
    np.testing.assert_allclose(fitted.held_out, apply(fitted, ridge=values), atol=1e-9)


def test_the_regression_is_that_of_scikit_learn_where_it_is_pulled_to_zero(
    monkeypatch: pytest.MonkeyPatch,
):
    values, targets, _ = outputs(200, 0)
    monkeypatch.setattr(fusion, "STRENGTH", 0.05)
    weight = fusion._regress(values, targets, np.zeros((CLASSES + 1, CLASSES)))
    # Theirs minimises C · the sum of losses + |w|²/2.
    theirs = LogisticRegression(C=1 / (2 * 0.05 * 200), tol=1e-10, fit_intercept=False)
    theirs.fit(np.hstack([values, np.ones((200, 1))]), targets)
    np.testing.assert_allclose(weight.T, theirs.coef_, atol=1e-3)
