from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.optimize import brentq
from scipy.stats import norm
from sklearn.metrics import average_precision_score, roc_auc_score, roc_curve

from leakcache.errors import ScoringError
from leaknet.metrics import auroc, open_values, roc

# Few distinct values, so that ties within and between the sets are the rule.
tied = st.integers(-4, 4).map(float)
sets = arrays(np.float64, st.integers(1, 30), elements=tied)


def plain(known: np.ndarray, unknown: np.ndarray, right: np.ndarray) -> dict[str, float]:
    return {name: float(value[0]) for name, value in open_values(known, unknown, right).items()}


def scores_of(known: np.ndarray, unknown: np.ndarray) -> dict[str, float]:
    return plain(known, unknown, np.ones(len(known), dtype=bool))


@settings(max_examples=150, deadline=None)
@given(known=sets, unknown=sets)
def test_equals_scikit_learn_with_ties(known: np.ndarray, unknown: np.ndarray) -> None:
    ours = scores_of(known, unknown)
    is_known = np.concatenate([np.ones(len(known)), np.zeros(len(unknown))])
    scores = np.concatenate([known, unknown])
    assert ours["auroc"] == pytest.approx(roc_auc_score(is_known, scores))
    assert ours["aupr"] == pytest.approx(average_precision_score(1 - is_known, -scores))
    assert ours["aupr_known"] == pytest.approx(average_precision_score(is_known, scores))
    fpr, tpr, _ = roc_curve(is_known, scores, drop_intermediate=False)
    assert ours["fpr95"] == pytest.approx(fpr[tpr >= 0.95 - 1e-9][0])
    np.testing.assert_allclose(roc(known, unknown).fpr[0], fpr, atol=1e-12)
    crossing = brentq(lambda x: x - (1 - np.interp(x, *strictly(fpr, tpr))), 0, 1)
    assert ours["eer"] == pytest.approx(crossing, abs=1e-3)


def strictly(fpr: np.ndarray, tpr: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The curve with its vertical steps leant over a little, so that it is a function of FPR."""
    return fpr + 1e-6 * np.arange(len(fpr)), tpr


@settings(max_examples=100, deadline=None)
@given(known=sets, unknown=sets, seed=st.integers(0, 100))
def test_unchanged_by_increasing_transformations_and_order(
    known: np.ndarray, unknown: np.ndarray, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    right = rng.random(len(known)) < 0.7
    expected = plain(known, unknown, right)
    assert plain(np.exp(known / 3) - 7, np.exp(unknown / 3) - 7, right) == expected
    order = rng.permutation(len(known))
    shuffled = plain(known[order], rng.permutation(unknown), right[order])
    assert shuffled == pytest.approx(expected)


@settings(max_examples=100, deadline=None)
@given(known=sets, unknown=sets)
def test_ranges_and_order_of_the_metrics(known: np.ndarray, unknown: np.ndarray) -> None:
    right = np.arange(len(known)) % 3 > 0
    s = plain(known, unknown, right)
    assert all(0 <= value <= 1 + 1e-12 for value in s.values())
    assert s["oscr"] <= min(right.mean(), s["auroc"]) + 1e-12
    assert s["ccr1"] <= s["ccr5"] <= s["ccr10"] <= right.mean() + 1e-12
    assert auroc(known, unknown) + auroc(unknown, known) == pytest.approx(1)
    assert s["eer"] + scores_of(-known, -unknown)["eer"] == pytest.approx(1)


def test_a_set_against_itself_cannot_be_told_apart() -> None:
    x = np.random.default_rng(0).standard_normal(200)
    s = scores_of(x, x)
    assert s["auroc"] == pytest.approx(0.5)
    assert s["eer"] == pytest.approx(0.5)
    assert s["ovl"] == pytest.approx(1)
    assert s["fpr95"] == pytest.approx(0.95)
    assert s["oscr"] == pytest.approx(0.5)


@pytest.mark.parametrize("sizes", [(1, 1), (5, 7), (500, 33)])
def test_separated_sets_are_told_apart_perfectly(sizes: tuple[int, int]) -> None:
    rng = np.random.default_rng(0)
    s = scores_of(rng.random(sizes[0]) + 2, rng.random(sizes[1]))
    best = {"fpr95": 0, "eer": 0, "ovl": 0}
    assert s == pytest.approx({name: best.get(name, 1) for name in s})


def test_all_scores_equal_is_chance() -> None:
    s = scores_of(np.zeros(10), np.zeros(4))
    assert (s["auroc"], s["eer"], s["fpr95"], s["ovl"]) == (0.5, 0.5, 1.0, 1.0)
    assert s["ccr1"] == 0
    assert s["aupr"] == pytest.approx(4 / 14)


def test_equal_error_rate_by_hand() -> None:
    # Accepting scores >= 3 lets in 1 of 4 unknown and rejects 1 of 4 known: they cross there.
    s = scores_of(np.array([1.0, 3, 4, 5]), np.array([0.0, 1, 2, 3]))
    assert s["eer"] == pytest.approx(0.25)
    # From (FAR, FRR) = (0, 1/2) to (1/2, 0) along a tie: they cross half-way, at 1/4.
    assert scores_of(np.array([1.0, 2]), np.array([0.0, 1]))["eer"] == pytest.approx(0.25)


@pytest.mark.parametrize("d", [0.0, 0.5, 1.0, 2.0, 4.0])
def test_two_gaussians_give_the_closed_forms(d: float) -> None:
    rng = np.random.default_rng(int(10 * d))
    s = scores_of(rng.standard_normal(20_000) + d, rng.standard_normal(20_000))
    assert s["ovl"] == pytest.approx(2 * norm.cdf(-d / 2), abs=0.03)
    assert s["eer"] == pytest.approx(norm.cdf(-d / 2), abs=0.01)
    assert s["auroc"] == pytest.approx(norm.cdf(d / np.sqrt(2)), abs=0.01)
    assert s["fpr95"] == pytest.approx(norm.cdf(norm.ppf(0.95) - d), abs=0.02)


def test_overlap_sees_what_one_threshold_cannot() -> None:
    rng = np.random.default_rng(0)
    narrow, wide = rng.standard_normal(20_000), 3 * rng.standard_normal(20_000)
    grid = np.linspace(-20, 20, 20_001)
    exact = np.trapezoid(np.minimum(norm.pdf(grid), norm.pdf(grid, scale=3)), grid)
    s = scores_of(narrow, wide)
    assert s["ovl"] == pytest.approx(exact, abs=0.03)
    assert s["auroc"] == pytest.approx(0.5, abs=0.01)


def test_oscr_and_ccr_by_hand() -> None:
    known, unknown = np.array([4.0, 3, 2, 1]), np.array([3.5, 0.5])
    right = np.array([True, False, True, True])
    s = plain(known, unknown, right)
    # CCR steps: 1/4 before the first unknown, 3/4 before the second, 3/4 at the end.
    assert s["oscr"] == pytest.approx(0.5 * 0.25 + 0.5 * 0.75)
    assert (s["ccr1"], s["ccr5"], s["ccr10"]) == (0.25, 0.25, 0.25)


def test_ccr_takes_the_lowest_threshold_within_the_false_alarms() -> None:
    known, unknown = np.arange(100.0), np.arange(20.0) - 0.5
    unknown[-1] = 50.5
    s = scores_of(known, unknown)
    assert (s["ccr1"], s["ccr5"], s["ccr10"]) == (0.49, 0.82, 0.83)


@settings(max_examples=50, deadline=None)
@given(known=sets, unknown=sets, seed=st.integers(0, 1000))
def test_weights_are_repetitions(known: np.ndarray, unknown: np.ndarray, seed: int) -> None:
    rng = np.random.default_rng(seed)
    right = rng.random(len(known)) < 0.5
    repeats = rng.integers(0, 4, len(known)), rng.integers(0, 4, len(unknown))
    repeats[0][0] = repeats[1][0] = 1
    weighted = open_values(known, unknown, right, *[r[None].astype(float) for r in repeats])
    again = plain(
        np.repeat(known, repeats[0]), np.repeat(unknown, repeats[1]), np.repeat(right, repeats[0])
    )
    for name, value in again.items():
        if name != "ovl":  # its bins are those of the unweighted sets
            assert weighted[name][0] == pytest.approx(value), name


def test_refuses_what_cannot_be_evaluated() -> None:
    some = np.zeros(3)
    with pytest.raises(ScoringError, match="no unknown images"):
        scores_of(some, some[:0])
    with pytest.raises(ScoringError, match="known images is NaN"):
        scores_of(np.array([0, np.nan, 1]), some)
