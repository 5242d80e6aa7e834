from __future__ import annotations

import numpy as np
import pytest
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis

from leaknet.data.embeddings import Embeddings
from leaknet.detectors.base import Standardiser
from leaknet.detectors.distances import (
    DiagonalMahalanobis,
    RelativeMahalanobis,
    TiedMahalanobis,
    whitener,
)
from leaknet.metrics import auroc


def test_diagonal_is_equation_13_without_its_options(
    train: Embeddings, val: Embeddings, test: Embeddings
) -> None:
    plain = DiagonalMahalanobis(shrinkage=0.0, floor=0.0).fit(train, val)
    own = train.vectors[train.targets == 1].astype(np.float64)
    expected = -np.square((test.vectors - own.mean(axis=0)) / own.std(axis=0)).sum(axis=1)
    np.testing.assert_allclose(plain.class_scores(test)[:, 1], expected, rtol=1e-6)


def test_shrinkage_reaches_the_median_and_the_floor_holds(
    train: Embeddings, val: Embeddings
) -> None:
    full = DiagonalMahalanobis(shrinkage=1.0).fit(train, val).variances_
    np.testing.assert_allclose(full, np.repeat(full[:, :1], full.shape[1], axis=1))
    none = DiagonalMahalanobis(shrinkage=0.0).fit(train, val).variances_
    np.testing.assert_allclose(full[:, 0], np.median(none, axis=1))
    assert DiagonalMahalanobis(floor=0.5).fit(train, val).variances_.min() >= 0.5


def test_whitener_inverts_the_covariance_it_shrinks() -> None:
    rng = np.random.default_rng(0)
    rows = rng.standard_normal((100_000, 3)) @ np.array([[2, 0, 0], [1, 1, 0], [0, 0.5, 1.5]])
    w = whitener(rows)
    np.testing.assert_allclose(w @ w.T, np.linalg.inv(np.cov(rows.T)), atol=0.02)


def test_whitener_of_few_rows_is_finite() -> None:
    rows = np.random.default_rng(0).standard_normal((3, 50))
    assert np.isfinite(whitener(rows - rows.mean(axis=0))).all()
    assert np.isfinite(whitener(np.zeros((3, 5)))).all()


def test_tied_attributes_as_linear_discriminant_analysis_does(
    train: Embeddings, val: Embeddings, test: Embeddings
) -> None:
    tied = TiedMahalanobis().fit(train, val)
    z = Standardiser.of(train)
    lda = LinearDiscriminantAnalysis(solver="lsqr", priors=np.full(3, 1 / 3))
    lda.fit(z(train.vectors), train.targets)
    agreement = lda.predict(z(test.vectors)) == tied.class_scores(test).argmax(axis=1)
    assert agreement.mean() > 0.98


def test_relative_is_tied_less_the_background(
    train: Embeddings, val: Embeddings, test: Embeddings
) -> None:
    relative, tied = RelativeMahalanobis().fit(train, val), TiedMahalanobis().fit(train, val)
    gap = relative.class_scores(test) - tied.class_scores(test)
    np.testing.assert_allclose(gap, np.repeat(gap[:, :1], 3, axis=1), atol=1e-9)
    assert (gap > 0).all()


@pytest.mark.parametrize("kind", [DiagonalMahalanobis, TiedMahalanobis])
def test_a_class_far_away_is_told_from_the_known(
    kind: type[DiagonalMahalanobis] | type[TiedMahalanobis],
    train: Embeddings,
    val: Embeddings,
    test: Embeddings,
    unknown: Embeddings,
) -> None:
    detector = kind().fit(train, val)
    assert auroc(detector.score_samples(test), detector.score_samples(unknown)) > 0.95


def test_score_of_a_gaussian_class_has_the_distribution_of_its_squares(
    train: Embeddings, val: Embeddings
) -> None:
    own = train.take(train.targets == 0)
    scores = DiagonalMahalanobis(shrinkage=0.0).fit(train, val).class_scores(own)[:, 0]
    assert -scores.mean() == pytest.approx(own.vectors.shape[1], rel=1e-6)
