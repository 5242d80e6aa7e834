from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.distance import cdist
from scipy.special import logsumexp
from sklearn.model_selection import GridSearchCV, PredefinedSplit
from sklearn.neighbors import KernelDensity

from leaknet.data.embeddings import Embeddings
from leaknet.detectors import density
from leaknet.detectors.base import Standardiser
from leaknet.detectors.density import GRID, MAX_BANDWIDTH, ClassKDE, GlobalKDE, choose_bandwidth


def sklearn_density(queries: np.ndarray, references: np.ndarray, h: float) -> np.ndarray:
    """scikit-learn's figure from one leaf.

    Its tree adds and subtracts bounds in log space and loses all digits of small densities in
    many dimensions: it errs by 100 nats at 128 dimensions and a bandwidth of 0.8.
    """
    kde = KernelDensity(bandwidth=h, leaf_size=len(references)).fit(references)
    return np.asarray(kde.score_samples(queries))


def brute_force(queries: np.ndarray, references: np.ndarray, h: float) -> np.ndarray:
    d = references.shape[1]
    exponents = -cdist(queries, references, "sqeuclidean") / (2 * h * h)
    constant = np.log(len(references)) + d * np.log(h) + d / 2 * np.log(2 * np.pi)
    return np.asarray(logsumexp(exponents, axis=1) - constant)


@settings(max_examples=40, deadline=None)
@given(
    n=st.integers(1, 60),
    k=st.integers(1, 20),
    d=st.integers(1, 40),
    h=st.floats(0.05, 5),
    seed=st.integers(0, 1000),
)
def test_equals_brute_force_and_scikit_learn(n: int, k: int, d: int, h: float, seed: int) -> None:
    rng = np.random.default_rng(seed)
    references, queries = rng.standard_normal((n, d)), 2 * rng.standard_normal((k, d))
    ours = density.log_density(queries, references, h)
    np.testing.assert_allclose(ours, brute_force(queries, references, h), rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(ours, sklearn_density(queries, references, h), rtol=1e-9, atol=1e-7)


@pytest.mark.parametrize("h", [0.1, 0.4, 1.0])
@pytest.mark.parametrize("offset", [0.0, 1e4])
def test_stays_exact_in_many_dimensions_and_far_from_the_origin(h: float, offset: float) -> None:
    rng = np.random.default_rng(0)
    references = rng.standard_normal((300, 128)) + offset
    queries = np.concatenate([rng.standard_normal((40, 128)), references[:10] - offset + 1e-3])
    queries += offset
    ours = density.log_density(queries, references, h)
    assert np.abs(ours - brute_force(queries, references, h)).max() < 1e-5


def test_equals_the_tree_of_scikit_learn_where_that_tree_keeps_its_digits() -> None:
    rng = np.random.default_rng(0)
    references, queries = rng.standard_normal((800, 8)), rng.standard_normal((100, 8))
    expected = KernelDensity(bandwidth=0.8).fit(references).score_samples(queries)
    assert np.abs(density.log_density(queries, references, 0.8) - expected).max() < 1e-5


def test_block_sizes_do_not_change_the_result(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    references, queries = rng.standard_normal((50, 4)), rng.standard_normal((33, 4))
    whole = density.log_density(queries, references, 0.5)
    monkeypatch.setattr(density, "QUERY_BLOCK", 7)
    monkeypatch.setattr(density, "REFERENCE_BLOCK", 11)
    np.testing.assert_allclose(density.log_density(queries, references, 0.5), whole, atol=1e-12)
    assert density.log_density(queries[:0], references, 0.5).shape == (0,)


def test_bandwidth_is_that_of_a_grid_search_over_the_validation_fold(
    train: Embeddings, val: Embeddings
) -> None:
    z = Standardiser.of(train)
    stacked = np.concatenate([z(train.vectors), z(val.vectors)])
    fold = PredefinedSplit([-1] * len(train) + [0] * len(val))
    grid = [*GRID, 0.05, 1.25]
    search = GridSearchCV(
        KernelDensity(leaf_size=len(stacked)), {"bandwidth": grid}, cv=fold, refit=False
    )
    search.fit(stacked)
    assert float(GlobalKDE().fit(train, val).bandwidth_) == search.best_params_["bandwidth"]


@pytest.mark.parametrize("best", [0.011, 0.3, 7.0])
def test_the_grid_grows_until_the_best_value_is_inside(best: float) -> None:
    chosen = choose_bandwidth(lambda h: -abs(np.log(h / best)))
    assert best / 2 < chosen < best * 2


def test_the_grid_stops_growing_at_its_bound() -> None:
    assert choose_bandwidth(lambda h: h) == MAX_BANDWIDTH


def test_class_density_is_the_best_of_the_classes(
    train: Embeddings, val: Embeddings, test: Embeddings
) -> None:
    kde = ClassKDE().fit(train, val)
    z, h = Standardiser.of(train), float(kde.bandwidth_)
    references = z(train.vectors)
    own = [brute_force(z(test.vectors), references[train.targets == c], h) for c in range(3)]
    np.testing.assert_allclose(kde.class_scores(test), np.stack(own, axis=1), atol=1e-9)
    np.testing.assert_allclose(kde.score_samples(test), np.max(own, axis=0), atol=1e-9)
    assert (kde.class_scores(test).argmax(axis=1) == test.targets).mean() > 0.9


def test_an_image_scores_the_same_alone(train: Embeddings, val: Embeddings) -> None:
    kde = GlobalKDE().fit(train, val)
    alone = [kde.score_samples(val.take(np.array([i])))[0] for i in range(5)]
    np.testing.assert_allclose(alone, kde.score_samples(val)[:5], rtol=1e-12)
