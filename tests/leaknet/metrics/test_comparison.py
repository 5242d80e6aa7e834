from __future__ import annotations

from itertools import product

import numpy as np
import pytest
from scipy.stats import permutation_test

from leakcache.errors import ScoringError
from leaknet.metrics import auroc, closed_scores
from leaknet.metrics.paired_tests import OpenScoring, compare_closed, compare_open, sign_flip_p


def test_few_groups_are_enumerated() -> None:
    differences = np.array([1.0, 0.5, -0.2, 0.7, 0.7, 0.1])
    groups = np.array(["a", "a", "b", "c", "d", "d"])
    sums = np.array([1.5, -0.2, 0.7, 0.8])
    patterns = [abs(np.dot(signs, sums)) for signs in product((-1, 1), repeat=4)]
    expected = np.mean([value >= sums.sum() - 1e-9 for value in patterns])
    assert sign_flip_p(differences, groups) == expected


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


def test_equal_runs_do_not_differ() -> None:
    rng = np.random.default_rng(0)
    targets = np.arange(80) % 4
    logits = rng.standard_normal((80, 4)) + np.eye(4)[targets]
    groups = np.array([f"g{i // 4}" for i in range(80)])
    for difference in compare_closed(logits, logits, targets, groups, resamples=100).values():
        assert (difference.value, difference.low, difference.high, difference.p) == (0, 0, 0, 1)


def test_a_better_run_is_told_from_a_worse_one() -> None:
    rng = np.random.default_rng(0)
    targets = np.arange(400) % 4
    groups = np.array([f"g{i // 8}" for i in range(400)])
    noise = rng.standard_normal((400, 4))
    worse, better = noise + np.eye(4)[targets], noise + 2 * np.eye(4)[targets]
    found = compare_closed(worse, better, targets, groups, resamples=400)
    classes = ("a", "b", "c", "d")
    gain = (
        closed_scores(better, targets, classes).top1 - closed_scores(worse, targets, classes).top1
    )
    assert found["top1"].value == pytest.approx(gain)
    assert found["top1"].low < gain < found["top1"].high
    for name in ("top1", "balanced", "macro_auc"):
        assert found[name].low > 0
        assert found[name].p < 0.01
    back = compare_closed(better, worse, targets, groups, resamples=400)
    assert back["macro_auc"].value == pytest.approx(-found["macro_auc"].value)
    assert back["macro_auc"].p == found["macro_auc"].p


def test_open_sets_are_compared_on_the_same_resamples() -> None:
    rng = np.random.default_rng(0)
    known, unknown = rng.standard_normal(200) + 1, rng.standard_normal(100)
    right = rng.random(200) < 0.8
    groups = np.array([f"g{i % 40}" for i in range(200)])
    a = OpenScoring(known, unknown, right)
    b = OpenScoring(3 * known + 0.9, 3 * unknown, right)
    scaled = OpenScoring(np.exp(known), np.exp(unknown), right)
    found = compare_open(a, b, groups, groups[:100], resamples=300)
    assert found["auroc"].value == pytest.approx(auroc(b.known, b.unknown) - auroc(known, unknown))
    assert found["auroc"].low > 0
    assert found["auroc"].p < 0.02
    same = compare_open(a, scaled, groups, groups[:100], resamples=50)
    assert all(abs(d.value) < 1e-12 and d.p == 1 for d in same.values())


def test_nothing_in_common_is_refused() -> None:
    with pytest.raises(ScoringError, match="no images that both runs"):
        sign_flip_p(np.zeros(0), np.zeros(0, dtype=np.str_))
