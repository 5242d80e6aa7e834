"""The streaming solver against the exact one, and against fits to the images left."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.linear_model import Ridge

from leaknet.model import feature_space, streaming_space
from leaknet.model.feature_space import FeatureSpace, GramSpace, Views, fit_space, view_moments
from leaknet.model.ridge import STRENGTHS, StandardFeatures
from leaknet.model.streaming_space import StreamingSpace
from leaknet.model.two_covariance import group_folds, held_out

CLASSES, PROMPTS, PARTS = 4, 12, 3
LENGTHS = {"first": 20, "second": 30}
TARGETS = torch.arange(CLASSES).repeat_interleave(PROMPTS)
GROUPS = np.tile([f"prompt {prompt}" for prompt in range(PROMPTS)], CLASSES)


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("leaknet.model.feature_space.BLOCK", 30)
    monkeypatch.setattr(streaming_space, "RANK", 20)
    monkeypatch.setattr(streaming_space, "TOLERANCE", 1e-6)
    monkeypatch.setattr(streaming_space, "MAX_ITERATIONS", 200)


def views(seed: int = 0, rank: int = 50) -> Views:
    """Views of images of classes; beyond `rank` directions there is little noise."""
    rng = np.random.default_rng(seed)
    length = sum(LENGTHS.values())
    basis = np.linalg.qr(rng.normal(size=(length, length)))[0][:rank]
    means = rng.normal(size=(CLASSES, rank))[TARGETS.numpy()]
    images = means + rng.normal(size=(len(TARGETS), rank))
    parts = (images[:, None] + rng.normal(size=(len(TARGETS), PARTS, rank))) @ basis
    parts += 1e-3 * rng.normal(size=parts.shape)
    rows = torch.from_numpy(parts).float()
    return Views(len(TARGETS), PARTS, lambda images: rows[images].flatten(0, 1))


def spaces(given: Views, groups: np.ndarray = GROUPS) -> tuple[FeatureSpace, FeatureSpace]:
    """Exact and streaming."""
    return tuple(
        kind.fit(StandardFeatures(LENGTHS), given, groups) for kind in (GramSpace, StreamingSpace)
    )


def one_hot() -> np.ndarray:
    return np.eye(CLASSES)[TARGETS].repeat(PARTS, axis=0) - 1 / CLASSES


def test_the_regression_is_that_of_scikit_learn_and_held_out_that_of_fits_without_a_fold():
    _, space = spaces(views())
    found = space.fit_ridge(one_hot())
    rows = space.features.of_block(space.views.whole()).numpy()
    shift = found.strength * np.square(rows).sum(axis=1).mean()
    folds = group_folds(GROUPS, streaming_space.FOLDS).numpy().repeat(PARTS)

    def weights(fitted: np.ndarray) -> np.ndarray:
        ridge = Ridge(alpha=shift)
        return ridge.fit(rows[fitted], one_hot()[fitted]).coef_.T

    every = weights(np.ones(len(rows), dtype=bool))
    np.testing.assert_allclose(space.weights(found.dual).numpy(), every, atol=1e-4)
    for fold in range(streaming_space.FOLDS):
        own = folds == fold
        expected = (rows[own] - rows[~own].mean(axis=0)) @ weights(~own)
        np.testing.assert_allclose(found.held_out[own], expected, atol=1e-4)
    assert found.error == pytest.approx(np.square(found.held_out - one_hot()).mean(), rel=1e-4)


def test_both_solvers_choose_about_the_same_fit():
    exact, streamed = (space.fit_ridge(one_hot()) for space in spaces(views()))
    assert 0.2 < streamed.strength / exact.strength < 5
    assert streamed.error == pytest.approx(exact.error, rel=0.1)
    single = spaces(views(), np.zeros(len(TARGETS)))[1].fit_ridge(one_hot())
    assert single.strength == STRENGTHS[len(STRENGTHS) // 2]
    assert not single.held_out.any()


def test_the_two_covariance_model_is_the_exact_one():
    first, second = (held_out(space.fit_sources, TARGETS, GROUPS) for space in spaces(views()))
    assert second.spread == first.spread
    torch.testing.assert_close(second.ratios, first.ratios, atol=3e-3, rtol=3e-3)
    everything, weights = torch.arange(len(TARGETS)), []
    for space in spaces(views()):
        found = space.fit_sources([(everything, TARGETS)])[0]
        weights.append(space.weights(found.directions.weights))
        coordinates = found.coordinates(everything)
        means = torch.stack([coordinates[c == TARGETS].mean(dim=0) for c in range(CLASSES)])
        torch.testing.assert_close(means, found.directions.centres, atol=1e-5, rtol=0)
    torch.testing.assert_close(weights[1].abs(), weights[0].abs(), atol=1e-3, rtol=1e-3)
    assert spaces(views())[1].fit_sources([]) == []


def test_the_preconditioner_saves_iterations(monkeypatch: pytest.MonkeyPatch):
    """Features have a few strong directions, as those of images do."""
    passes = []
    apply = StreamingSpace._apply
    monkeypatch.setattr(StreamingSpace, "_apply", lambda *given: passes.append(1) or apply(*given))
    monkeypatch.setattr(streaming_space, "TOLERANCE", 1e-3)
    counts = []
    for rank in (1, 20):
        monkeypatch.setattr(streaming_space, "RANK", rank)
        spaces(views(rank=15))[1].fit_ridge(one_hot())
        counts.append(len(passes) - sum(counts))
    assert counts[1] < counts[0]


def test_moments_are_those_of_all_views():
    given = views()
    statistics = given.whole().double().numpy()
    found = view_moments(given, statistics.shape[1])
    np.testing.assert_allclose(found.mean, statistics.mean(axis=0), atol=1e-6)
    np.testing.assert_allclose(found.variance, statistics.var(axis=0), rtol=1e-5)


def test_more_views_than_the_limit_or_than_fit_into_memory_are_streamed(
    monkeypatch: pytest.MonkeyPatch,
):
    def kind() -> type[FeatureSpace]:
        return type(fit_space(StandardFeatures(LENGTHS), views(), GROUPS))

    assert kind() is GramSpace
    monkeypatch.setattr(feature_space, "MAX_VIEWS", len(views()) - 1)
    assert kind() is StreamingSpace
    monkeypatch.undo()
    monkeypatch.setattr(feature_space, "memory_limit", lambda: 100_000)
    assert kind() is StreamingSpace
