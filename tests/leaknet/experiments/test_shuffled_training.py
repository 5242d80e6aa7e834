"""Shuffled labels: chance is where names mean nothing, and a leak shows above it."""

from __future__ import annotations

from dataclasses import replace
from itertools import permutations

import numpy as np
import pytest

from leaknet.data.embeddings import Embeddings
from leaknet.experiments.label_shuffle import chance_range, cross_areas, summarise_shuffled
from leaknet.metrics.closed_set import per_class_auc
from tests.leaknet.experiments.synthetic import embeddings


def lucky(seed: int, shift: int) -> Embeddings:
    """Logits that know the generator, under names moved on by `shift`."""
    e = embeddings(60, "test", seed=seed, dimension=6)
    return replace(e, logits=np.roll(e.logits, shift, axis=1))


def test_the_diagonal_has_the_one_vs_rest_areas() -> None:
    e = embeddings(60, "test", seed=2, dimension=6)
    found = cross_areas(e)
    np.testing.assert_allclose(np.diag(found), per_class_auc(e.logits, e.targets)[0])


def test_chance_covers_every_permutation_of_the_names() -> None:
    e = embeddings(60, "test", seed=2, dimension=6)
    areas = cross_areas(e)
    means = [areas[np.arange(3), list(p)].mean() for p in permutations(range(3))]
    low, high = chance_range([e])
    assert low == pytest.approx(min(means), abs=1e-9)
    assert high == pytest.approx(max(means), abs=1e-9)


def test_chance_narrows_around_one_half_with_seeds() -> None:
    tests = [embeddings(60, "test", seed=2, dimension=6)] * 20
    (low, high), (low1, high1) = chance_range(tests), chance_range(tests[:1])
    assert low1 < low < 0.5 < high < high1


def test_names_by_luck_pass_and_names_by_knowledge_do_not() -> None:
    assert summarise_shuffled([lucky(seed, shift=seed % 3) for seed in range(6)]).passed
    leaking = summarise_shuffled([lucky(seed, shift=0) for seed in range(6)])
    assert not leaking.passed
    assert leaking.as_dict()["macro_auc"] > leaking.as_dict()["chance"][1]
