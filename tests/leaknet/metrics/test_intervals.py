from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import bootstrap, norm

from leakcache.errors import ScoringError
from leaknet.metrics import bootstrap as module
from leaknet.metrics import closed_values, roc
from leaknet.metrics.bootstrap import Interval, cluster_weights, intervals


def top1_interval(
    logits: np.ndarray, targets: np.ndarray, groups: np.ndarray, resamples: int
) -> Interval:
    def measure(weights):
        return closed_values(logits, targets, None if weights is None else weights[0])

    return intervals(measure, [groups], resamples=resamples)["top1"]


def auroc_interval(
    known: np.ndarray, unknown: np.ndarray, groups: list[np.ndarray], resamples: int
) -> Interval:
    def measure(weights):
        return {"auroc": roc(known, unknown, *(weights or ())).auroc()}

    return intervals(measure, groups, resamples=resamples)["auroc"]


def clustered(
    rng: np.random.Generator, clusters: int, size: int, shared: float
) -> tuple[np.ndarray, np.ndarray]:
    """Normal scores of unit variance, of which the share `shared` is common to a group."""
    common = np.repeat(rng.standard_normal(clusters), size)
    own = rng.standard_normal(clusters * size)
    groups = np.repeat([f"g{i}" for i in range(clusters)], size)
    return np.sqrt(shared) * common + np.sqrt(1 - shared) * own, groups


def test_weights_draw_whole_groups_the_same_in_every_set() -> None:
    known, unknown = np.array(["a", "b", "a", "c"]), np.array(["c", "b", "d", "e", "d"])
    blocks = list(cluster_weights([known, unknown], resamples=300, seed=1))
    own, other = (np.concatenate([block[i] for block in blocks]) for i in (0, 1))
    assert own.shape == (300, 4)
    np.testing.assert_array_equal(own[:, 0], own[:, 2])
    np.testing.assert_array_equal(own[:, 3], other[:, 0])  # the group c, in both sets
    # Strata: {a} in the known alone never varies, {b, c} are in both, {d, e} in the unknown.
    assert (own[:, 0] == 1).all()
    assert set((own[:, 1] + own[:, 3]).tolist()) == {2}
    assert set((other[:, 2] + other[:, 3]).tolist()) == {2}
    assert own[:, 1].mean() == pytest.approx(1, abs=0.15)


def test_weights_depend_on_the_seed_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    groups = np.array([f"g{i % 5}" for i in range(40)])
    whole = np.concatenate([w for (w,) in cluster_weights([groups], resamples=50, seed=3)])
    again = np.concatenate([w for (w,) in cluster_weights([groups], resamples=50, seed=3)])
    other = np.concatenate([w for (w,) in cluster_weights([groups], resamples=50, seed=4)])
    np.testing.assert_array_equal(whole, again)
    assert (whole != other).any()
    monkeypatch.setattr(module, "_BLOCK", 200)
    parts = [w for (w,) in cluster_weights([groups], resamples=50, seed=3)]
    assert [len(part) for part in parts] == [5] * 10
    np.testing.assert_array_equal(np.concatenate(parts), whole)


def test_top1_has_the_interval_of_scipy_where_every_image_is_its_own_group() -> None:
    rng = np.random.default_rng(0)
    targets = np.arange(200) % 2
    logits = rng.standard_normal((200, 2)) + np.eye(2)[targets]
    right = (logits.argmax(axis=1) == targets).astype(float)
    groups = np.array([f"image {i}" for i in range(200)])
    ours = top1_interval(logits, targets, groups, 4000)
    theirs = bootstrap((right,), np.mean, method="percentile", n_resamples=4000, rng=rng)
    assert ours.value == right.mean()
    assert ours.low == pytest.approx(theirs.confidence_interval.low, abs=0.012)
    assert ours.high == pytest.approx(theirs.confidence_interval.high, abs=0.012)


def test_area_intervals_cover_the_truth_and_ignoring_groups_does_not() -> None:
    rng = np.random.default_rng(0)
    truth = norm.cdf(1 / np.sqrt(2))
    covered = {"grouped": 0, "each alone": 0}
    for _ in range(60):
        known, groups = clustered(rng, 40, 4, 0.7)
        unknown, other_groups = clustered(rng, 40, 4, 0.7)
        other_groups = np.char.add("unknown ", other_groups)
        alone = [f"image {i}" for i in range(320)]
        for name, g in (
            ("grouped", (groups, other_groups)),
            ("each alone", (np.array(alone[:160]), np.array(alone[160:]))),
        ):
            one = auroc_interval(known + 1, unknown, list(g), 120)
            covered[name] += one.low <= truth <= one.high
    # 57 of 60 expected; fewer than 51 would miss it by more than 3 sigma.
    assert covered["grouped"] >= 51
    assert covered["each alone"] < 48


def test_accuracy_intervals_cover_the_truth() -> None:
    rng = np.random.default_rng(1)
    truth = norm.cdf(1)
    covered = 0
    for _ in range(100):
        noise, groups = clustered(rng, 50, 4, 0.5)
        targets = np.arange(200) % 2
        margin = (noise + 1) * (2 * targets - 1)
        logits = np.stack([np.zeros(200), margin], axis=1)
        found = top1_interval(logits, targets, groups, 200)
        covered += found.low <= truth <= found.high
    assert 88 <= covered <= 100


def test_a_class_that_a_resample_lacks_is_left_out_of_it() -> None:
    targets = np.array([0, 0, 0, 1, 2])
    logits = np.eye(3)[targets] + 0.1 * np.arange(3)
    groups = np.array(["a", "b", "c", "d", "e"])
    found = intervals(
        lambda w: closed_values(logits, targets, None if w is None else w[0]),
        [groups],
        resamples=300,
    )
    assert all(np.isfinite([i.low, i.high]).all() for i in found.values())
    assert found["top1"].value == 1


def test_a_single_group_has_no_interval() -> None:
    logits, targets = np.eye(4), np.arange(4)
    with pytest.raises(ScoringError, match="two prompt groups"):
        top1_interval(logits, targets, np.full(4, "same"), 10)
    sets = [np.array(["a", "b", "c", "d"]), np.array(["a", "b", "c"]), np.array(["c"])]
    with pytest.raises(ScoringError, match="two prompt groups"):
        list(cluster_weights(sets))
