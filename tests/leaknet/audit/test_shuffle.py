"""Shuffled labels: the same images, the same counts, no meaning."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st

from leakcache.dataset.index import FOLDS, DatasetIndex, ImageRecord
from leakcache.dataset.records import canonical
from leaknet.audit import shuffle_index, shuffle_labels, shuffle_split
from leaknet.data.split import SplitLatents

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


def test_a_shuffle_tears_labels_from_images():
    labels = np.array([f"class {i % 4}" for i in range(800)])
    folds = np.array(["train", "test"])[np.arange(800) // 400]
    agree = (shuffle_labels(labels, folds, 0) == labels).mean()
    assert 0.15 < agree < 0.35
    assert (shuffle_labels(labels, folds, 0) != shuffle_labels(labels, folds, 1)).any()


def test_an_index_keeps_images_groups_and_folds():
    records = canonical(
        ImageRecord(f"{label}/{i}.png", label, f"prompt {i}", FOLDS[i % 3])
        for label in "ab"
        for i in range(30)
    )
    index = DatasetIndex(Path("/data"), records, (), "class folders")
    shuffled = shuffle_index(index, seed=5)
    assert shuffled.counts() == index.counts()
    places = {(r.path, r.group, r.fold) for r in index.records}
    assert {(r.path, r.group, r.fold) for r in shuffled.records} == places
    assert shuffled.records == canonical(shuffled.records)
    assert any(r.label not in r.path for r in shuffled.records)
    assert shuffled.layout.endswith("labels shuffled within folds with seed 5")


def test_latents_stay_with_their_images():
    number = np.arange(20)
    split = SplitLatents(
        z0=torch.arange(20.0)[:, None, None, None, None],
        labels=np.where(number % 2, "a", "b"),
        groups=number.astype(str),
        folds=np.full(20, "train"),
        hashes=number.astype(str),
        paths=number.astype(str),
    )
    shuffled = shuffle_split(split, 1)
    assert torch.equal(shuffled.z0, split.z0)
    assert (shuffled.hashes == split.hashes).all()
    assert sorted(shuffled.labels) == sorted(split.labels)
    assert (shuffled.labels != split.labels).any()
