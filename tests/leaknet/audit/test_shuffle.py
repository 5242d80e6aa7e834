"""Shuffled labels: equal class counts, no relation to the images."""

from __future__ import annotations

from collections import Counter

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from leakcache.dataset.index import FOLDS
from leaknet.audit.control_classifiers import shuffle_labels

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
