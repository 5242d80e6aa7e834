"""Train and evaluation rows, and scores of features without information."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score

from leakcache.dataset.index import FOLDS
from leaknet.audit.control_classifiers import (
    MIN_FOLD,
    closed_protocol,
    group_protocol,
    log_probabilities,
    shuffle_labels,
)
from leaknet.metrics.values import closed_values


def groups_of(prompts: int, images: int) -> np.ndarray:
    return np.repeat([f"prompt {i}" for i in range(prompts)], images)


@settings(max_examples=50, deadline=None)
@given(st.lists(st.integers(0, 12), min_size=1, max_size=60))
def test_no_group_is_on_both_sides_and_every_image_is_evaluated_once(numbers):
    groups = np.array([f"prompt {n}" for n in numbers])
    protocol = group_protocol(groups)
    if len(set(numbers)) < 2:
        assert protocol is None
        return
    for train, evaluated in protocol.splits:
        assert not set(groups[train]) & set(groups[evaluated])
        assert len(train) + len(evaluated) == len(groups)
    assert sorted(protocol.evaluated.tolist()) == list(range(len(groups)))


def test_the_data_s_own_folds_are_used_where_they_are_large_enough():
    groups = groups_of(40, 10)
    folds = np.repeat(["train", "val", "test"], [200, 80, 120])
    protocol = closed_protocol(folds, groups)
    assert protocol.evaluated.tolist() == list(range(280, 400))
    assert protocol.splits[0][0].tolist() == list(range(200))
    assert protocol.description == "test fold, 120 images"
    folds[280 : 400 - MIN_FOLD + 1] = "val"
    protocol = closed_protocol(folds, groups)
    assert len(protocol.evaluated) == 400
    assert protocol.description == "5-fold cross-validation by prompt group, 400 images"


@pytest.mark.parametrize("sizes", [(30, 30, 30), (60, 20, 10)])
def test_features_that_do_not_vary_score_exactly_chance(sizes):
    targets = np.repeat(np.arange(3), sizes)
    groups = np.array([f"prompt {i % 17}" for i in range(90)])
    protocol = group_protocol(groups)
    for features in (np.zeros((90, 0)), np.ones((90, 4))):
        scores = log_probabilities(features, targets, 3, protocol, 10)
        values = closed_values(scores, targets[protocol.evaluated])
        assert values["macro_auc"][0] == pytest.approx(0.5)
        assert values["top1"][0] == pytest.approx(max(sizes) / 90)


def test_a_column_with_the_class_scores_one_and_noise_scores_chance():
    random = np.random.default_rng(0)
    targets = np.arange(300) % 3
    protocol = group_protocol(groups_of(30, 10))
    noise = random.standard_normal((300, 3))
    evaluated = targets[protocol.evaluated]
    scores = log_probabilities(np.column_stack([noise, targets]), targets, 3, protocol)
    assert (scores.argmax(axis=1) == evaluated).all()
    chance = closed_values(log_probabilities(noise, targets, 3, protocol), evaluated)
    assert chance["macro_auc"][0] == pytest.approx(0.5, abs=0.07)


def test_scores_are_log_probabilities_that_rank_as_scikit_learn_ranks_them():
    random = np.random.default_rng(0)
    targets = np.arange(200) % 2
    features = random.standard_normal((200, 2)) + targets[:, None]
    protocol = group_protocol(groups_of(20, 10))
    scores = log_probabilities(features, targets, 2, protocol, 20)
    np.testing.assert_allclose(np.exp(scores).sum(axis=1), 1)
    evaluated = targets[protocol.evaluated]
    ours = closed_values(scores, evaluated)["macro_auc"][0]
    assert ours == pytest.approx(roc_auc_score(evaluated, scores[:, 1]))
    assert ours > 0.75


def test_a_class_that_is_never_trained_on_is_evaluated():
    targets = np.array([0] * 150 + [1] * 150 + [2] * 10)
    folds = np.array((["train"] * 75 + ["test"] * 75) * 2 + ["test"] * 10)
    protocol = closed_protocol(folds, np.array([f"g{i}" for i in range(310)]))
    features = targets[:, None].astype(float)
    scores = log_probabilities(features, targets, 3, protocol, 10)
    assert np.isfinite(scores).all()
    assert (scores[:150].argmax(axis=1) == targets[protocol.evaluated][:150]).all()


rows = st.lists(st.tuples(st.sampled_from(FOLDS), st.sampled_from("abc")), max_size=60)


@given(rows, st.integers(0, 2**32 - 1))
def test_every_fold_keeps_its_counts_and_the_open_set_its_labels(drawn, seed):
    folds = np.array([fold for fold, _ in drawn], str)
    labels = np.array([label for _, label in drawn], str)
    shuffled = shuffle_labels(labels, folds, seed)
    for fold in FOLDS:
        assert Counter(shuffled[folds == fold]) == Counter(labels[folds == fold])
    assert (shuffled[folds == "open"] == labels[folds == "open"]).all()
    np.testing.assert_array_equal(shuffled, shuffle_labels(labels, folds, seed))


def test_shuffled_labels_are_independent_of_the_images():
    labels = np.array([f"class {i % 4}" for i in range(800)])
    folds = np.array(["train", "test"])[np.arange(800) // 400]
    agree = (shuffle_labels(labels, folds, 0) == labels).mean()
    assert 0.15 < agree < 0.35
    assert (shuffle_labels(labels, folds, 0) != shuffle_labels(labels, folds, 1)).any()
