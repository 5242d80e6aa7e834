"""The closed form against fits that really leave each group out, and against scikit-learn."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.linear_model import Ridge

from leaknet.model.ridge import STRENGTHS, CrossRidge, cross_ridge


def problem(images: int = 24, values: int = 40, seed: int = 0) -> tuple[np.ndarray, ...]:
    generator = np.random.default_rng(seed)
    targets = np.arange(images) % 4
    features = generator.normal(size=(images, values)) + generator.normal(size=(4, values))[targets]
    groups = np.array([f"prompt {image // 4}" for image in range(images)])
    return features - features.mean(0), targets, groups


def fitted(features: np.ndarray, targets: np.ndarray, groups: np.ndarray) -> CrossRidge:
    gram = torch.from_numpy(features @ features.T).double()
    return cross_ridge(gram, np.eye(4)[targets] - 0.25, groups)


def absolute(found: CrossRidge, features: np.ndarray) -> float:
    return found.strength * float(np.linalg.eigvalsh(features @ features.T).mean())


def weights_of(features: np.ndarray, targets: np.ndarray, strength: float) -> np.ndarray:
    wanted = np.eye(4)[targets] - 0.25
    return Ridge(alpha=strength).fit(features, wanted).coef_.T


def slow_outputs(
    features: np.ndarray, targets: np.ndarray, out: np.ndarray, strength: float
) -> np.ndarray:
    """Of a fit without some images, about the mean of the others."""
    weights = weights_of(features[~out], targets[~out], strength)
    return (features[out] - features[~out].mean(0)) @ weights


@pytest.mark.parametrize("values", [10, 40])
def test_weights_are_those_of_scikit_learn(values):
    features, targets, groups = problem(values=values)
    found = fitted(features, targets, groups)
    expected = weights_of(features, targets, absolute(found, features))
    np.testing.assert_allclose(features.T @ found.dual.numpy(), expected, atol=1e-6)


@pytest.mark.parametrize("values", [10, 40])
def test_held_out_scores_are_those_of_fits_without_the_group(values):
    features, targets, groups = problem(values=values)
    found = fitted(features, targets, groups)
    strength = absolute(found, features)
    for group in set(groups.tolist()):
        out = groups == group
        slow = slow_outputs(features, targets, out, strength)
        np.testing.assert_allclose(found.held_out[out], slow, atol=1e-6)


def test_the_strength_is_that_of_the_least_error():
    features, targets, groups = problem()
    found = fitted(features, targets, groups)
    wanted = np.eye(4)[targets] - 0.25
    errors = []
    for relative in STRENGTHS:
        strength = relative * float(np.linalg.eigvalsh(features @ features.T).mean())
        slow = np.empty_like(wanted)
        for group in set(groups.tolist()):
            out = groups == group
            slow[out] = slow_outputs(features, targets, out, strength)
        errors.append(np.square(slow - wanted).mean())
    assert found.strength == STRENGTHS[int(np.argmin(errors))]
    assert found.error == pytest.approx(min(errors))


def test_content_alone_names_nobody():
    """One image of a prompt for each class: what they share says nothing of a class."""
    generator = np.random.default_rng(0)
    content = np.repeat(generator.normal(size=(20, 60)), 4, axis=0)
    features = content + 0.01 * generator.normal(size=content.shape)
    targets, groups = np.arange(80) % 4, np.repeat(np.arange(20).astype(str), 4)
    found = fitted(features - features.mean(0), targets, groups)
    assert (found.held_out.argmax(1) == targets).mean() < 0.45


def test_noise_names_nobody_whatever_the_groups():
    """Held-out outputs about a mean that holds the image, or others' classes, would."""
    targets, noise = np.arange(48) % 4, np.random.default_rng(0).normal(size=(48, 5000))
    found = fitted(noise - noise.mean(0), targets, np.arange(48).astype(str))
    own = found.held_out[np.arange(48), targets]
    assert abs(own.mean()) < 3 * own.std() / np.sqrt(48)


def test_features_that_say_nothing_and_groups_that_hold_all_are_survived():
    targets = np.arange(8) % 4
    for features in (np.zeros((8, 5)), np.random.default_rng(0).normal(size=(8, 5))):
        found = fitted(features, targets, np.full(8, "one"))
        assert np.isfinite(found.held_out).all()
        assert found.dual.isfinite().all()
