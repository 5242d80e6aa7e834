from __future__ import annotations

from itertools import product

import numpy as np
import pytest
from scipy.stats import permutation_test

from leakcache.errors import ScoringError
from leaknet.metrics.bootstrap import bootstrap_p, sign_flip_p


def test_few_groups_are_enumerated() -> None:
    differences = np.array([1.0, 0.5, -0.2, 0.7, 0.7, 0.1])
    groups = np.array(["a", "a", "b", "c", "d", "d"])
    sums = np.array([1.5, -0.2, 0.7, 0.8])
    patterns = [abs(np.dot(signs, sums)) for signs in product((-1, 1), repeat=4)]
    expected = np.mean([value >= sums.sum() - 1e-9 for value in patterns])
    assert sign_flip_p(differences, groups) == pytest.approx(expected)


def test_many_groups_agree_with_scipy() -> None:
    rng = np.random.default_rng(0)
    differences = rng.standard_normal(60) + 0.25
    groups = np.array([f"g{i}" for i in range(60)])
    theirs = permutation_test(
        (differences, np.zeros(60)),
        lambda x, y, axis: (x - y).mean(axis=axis),
        permutation_type="samples",
        vectorized=True,
        rng=rng,
    )
    assert sign_flip_p(differences, groups) == pytest.approx(theirs.pvalue, abs=0.015)


def test_false_alarms_keep_their_rate_only_where_groups_are_respected() -> None:
    rng = np.random.default_rng(0)
    groups = np.repeat([f"g{i}" for i in range(25)], 8)
    alone = np.array([f"i{i}" for i in range(200)])
    alarms = {"grouped": 0, "alone": 0}
    for _ in range(200):
        differences = np.repeat(rng.standard_normal(25), 8) + rng.standard_normal(200)
        alarms["grouped"] += sign_flip_p(differences, groups, permutations=400) < 0.05
        alarms["alone"] += sign_flip_p(differences, alone, permutations=400) < 0.05
    assert alarms["grouped"] <= 20
    assert alarms["alone"] > 40


def test_nothing_in_common_is_refused() -> None:
    with pytest.raises(ScoringError, match="no images that both runs"):
        sign_flip_p(np.zeros(0), np.zeros(0, dtype=np.str_))


def test_the_bootstrap_counts_the_far_side() -> None:
    assert bootstrap_p(np.array([1.0, 2, 3, -1])) == pytest.approx(2 * 2 / 5)
    assert bootstrap_p(np.zeros(9)) == 1
