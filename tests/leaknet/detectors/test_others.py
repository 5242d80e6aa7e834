"""Each detector against its definition, worked out another way."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from scipy.spatial.distance import cdist
from scipy.special import log_softmax, logsumexp
from scipy.stats import multivariate_normal
from sklearn.metrics import roc_auc_score
from sklearn.mixture import GaussianMixture

from leakcache.errors import ScoringError
from leaknet.data.embeddings import Embeddings
from leaknet.detectors import (
    ClassMixture,
    Energy,
    LikelihoodRatio,
    MaxLogit,
    MaxSoftmax,
    NearestNeighbour,
    PrototypeDistance,
    VirtualLogit,
)
from leaknet.detectors.base import Standardiser
from leaknet.detectors.density import COMPONENTS
from leaknet.detectors.distances import GRID as NEIGHBOURS
from leaknet.detectors.distances import choose_k, whitener


def test_logit_detectors(train: Embeddings, val: Embeddings, test: Embeddings) -> None:
    logits = test.logits.astype(np.float64)
    softmax, logit, energy = (k().fit(train, val) for k in (MaxSoftmax, MaxLogit, Energy))
    expected = log_softmax(logits, axis=1).max(axis=1)
    np.testing.assert_allclose(softmax.score_samples(test), expected, atol=1e-12)
    np.testing.assert_array_equal(logit.score_samples(test), logits.max(axis=1))
    np.testing.assert_allclose(energy.score_samples(test), logsumexp(logits, axis=1))


def test_softmax_keeps_apart_what_rounds_to_one(train: Embeddings, val: Embeddings) -> None:
    sure = val.take(np.arange(2))
    sure = replace(sure, logits=np.array([[0.0, -50, -60], [0, -60, -70]]))
    scores = MaxSoftmax().fit(train, val).score_samples(sure)
    assert scores[0] < scores[1] < 0


def test_logit_detectors_refuse_other_classes(train: Embeddings, val: Embeddings) -> None:
    detector = Energy().fit(train, val)
    two = val.take(val.targets < 2)
    two = replace(two, logits=two.logits[:, :2], classes=two.classes[:2])
    with pytest.raises(ScoringError, match="knows 3 classes but the embeddings have 2"):
        detector.score_samples(two)


def test_neighbour_distance_is_that_of_the_kth(
    train: Embeddings, val: Embeddings, test: Embeddings
) -> None:
    detector = NearestNeighbour().fit(train, val)
    z = Standardiser.of(train)
    distances = np.sort(cdist(z(test.vectors), z(train.vectors)), axis=1)
    expected = -distances[:, int(detector.k_) - 1]
    np.testing.assert_allclose(detector.score_samples(test), expected, rtol=1e-6)


def test_k_is_the_best_with_each_class_left_out() -> None:
    rng = np.random.default_rng(3)
    references, queries = rng.standard_normal((90, 3)), rng.standard_normal((60, 3))
    targets, asked = np.arange(90) % 3, np.arange(60) % 3
    references[:, 0] += 1.5 * targets
    queries[:, 0] += 1.5 * asked
    distances = cdist(queries, references)
    means = []
    for k in NEIGHBOURS:
        left_out = [
            roc_auc_score(asked == c, np.sort(distances[:, targets != c], axis=1)[:, k - 1])
            for c in range(3)
        ]
        means.append(np.mean(left_out))
    assert choose_k(references, targets, queries, asked) == NEIGHBOURS[int(np.argmax(means))]
    assert choose_k(references, targets, queries[asked == 0], asked[asked == 0]) == 1


def test_mixture_is_that_of_scikit_learn(
    train: Embeddings, val: Embeddings, test: Embeddings
) -> None:
    detector = ClassMixture().fit(train, val)
    x = Standardiser(detector.mean_, detector.scale_)(test.vectors)
    components = detector.weights_.shape[1]
    assert components in COMPONENTS
    for c in range(3):
        reference = GaussianMixture(components, covariance_type="diag")
        reference.weights_ = detector.weights_[c]
        reference.means_ = detector.centres_[c]
        reference.covariances_ = detector.variances_[c]
        reference.precisions_cholesky_ = 1 / np.sqrt(detector.variances_[c])
        expected = reference.score_samples(x)
        np.testing.assert_allclose(detector.class_scores(test)[:, c], expected, rtol=1e-9)


def test_mixture_has_the_components_that_the_data_have(train: Embeddings, val: Embeddings) -> None:
    def in_three_lumps(e: Embeddings) -> Embeddings:
        lump = np.arange(len(e)) % 3
        spread = np.random.default_rng(len(e)).standard_normal(e.vectors.shape) / 10
        return replace(e, vectors=spread + 3 * lump[:, None] + 20 * e.targets[:, None])

    detector = ClassMixture().fit(in_three_lumps(train), in_three_lumps(val))
    assert detector.weights_.shape[1] == 3
    np.testing.assert_allclose(detector.weights_, 1 / 3, atol=0.05)


def test_mixture_of_small_classes_has_one_component(train: Embeddings, val: Embeddings) -> None:
    rows = np.concatenate([np.flatnonzero(train.targets == c)[:3] for c in range(3)])
    detector = ClassMixture().fit(train.take(rows), val)
    np.testing.assert_array_equal(detector.weights_, np.ones((3, 1)))


def test_ratio_is_that_of_two_gaussians_of_one_covariance(
    train: Embeddings, val: Embeddings, test: Embeddings
) -> None:
    detector = LikelihoodRatio().fit(train, val)
    z = Standardiser.of(train)
    vectors, x = z(train.vectors), z(test.vectors)
    means = np.stack([vectors[train.targets == c].mean(axis=0) for c in range(3)])
    w = whitener(vectors - means[train.targets])
    covariance = np.linalg.inv(w @ w.T)
    for c in range(3):
        others = vectors[train.targets != c].mean(axis=0)
        expected = multivariate_normal(means[c], covariance).logpdf(x)
        expected -= multivariate_normal(others, covariance).logpdf(x)
        np.testing.assert_allclose(detector.class_scores(test)[:, c], expected, atol=1e-8)


def test_ratio_needs_a_background(train: Embeddings, val: Embeddings) -> None:
    def one(e: Embeddings) -> Embeddings:
        kept = e.take(e.targets == 0)
        return replace(kept, logits=kept.logits[:, :1], classes=kept.classes[:1])

    with pytest.raises(ScoringError, match="needs two classes"):
        LikelihoodRatio().fit(one(train), one(val))


def test_prototypes_are_centres_of_their_class(
    train: Embeddings, val: Embeddings, test: Embeddings
) -> None:
    detector = PrototypeDistance().fit(train, val)
    np.testing.assert_array_equal(np.bincount(detector.owners_), [4, 4, 4])
    x = Standardiser.of(train)(test.vectors)
    expected = -cdist(x, detector.centres_, "sqeuclidean").min(axis=1)
    np.testing.assert_allclose(detector.score_samples(test), expected)


def test_a_class_of_few_different_images_has_as_many_centres(
    train: Embeddings, val: Embeddings
) -> None:
    vectors = train.vectors.copy()
    rows = np.flatnonzero(train.targets == 1)
    vectors[rows] = vectors[rows[:2]][np.arange(len(rows)) % 2]
    detector = PrototypeDistance().fit(replace(train, vectors=vectors), val)
    np.testing.assert_array_equal(np.bincount(detector.owners_), [4, 2, 4])


def test_virtual_logit_is_blind_to_a_shift_of_all_logits(
    train: Embeddings, val: Embeddings, test: Embeddings
) -> None:
    def shifted(e: Embeddings) -> Embeddings:
        return replace(e, logits=e.logits - 64)

    plain = VirtualLogit().fit(train, val).score_samples(test)
    moved = VirtualLogit().fit(shifted(train), val).score_samples(shifted(test))
    np.testing.assert_allclose(moved, plain - 64, atol=1e-4)


def test_virtual_logit_counts_only_what_leaves_the_principal_subspace(
    train: Embeddings, val: Embeddings, test: Embeddings
) -> None:
    detector = VirtualLogit().fit(train, val)
    null = detector.residual_
    np.testing.assert_allclose(null.T @ null, np.eye(null.shape[1]), atol=1e-9)
    inside = np.linalg.svd(null.T)[2][null.shape[1] :]
    along = replace(test, vectors=test.vectors + 5 * inside[0] * detector.scale_)
    across = replace(test, vectors=test.vectors + 50 * null[:, 0] * detector.scale_)
    scores = detector.score_samples(test)
    np.testing.assert_allclose(detector.score_samples(along), scores, atol=1e-4)
    assert (detector.score_samples(across) < scores).all()


def test_virtual_logit_without_a_residual_is_the_energy(
    train: Embeddings, val: Embeddings, test: Embeddings
) -> None:
    def flat(e: Embeddings) -> Embeddings:
        return replace(e, vectors=e.vectors[:, :1] * np.ones(6, dtype=np.float32))

    detector = VirtualLogit().fit(flat(train), flat(val))
    energy = logsumexp(test.logits.astype(np.float64), axis=1)
    np.testing.assert_allclose(detector.score_samples(flat(test)), energy)
