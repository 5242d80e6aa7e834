"""Summaries over seeds, their bootstrap intervals and paired tests."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import product

import numpy as np
import pytest
from scipy.stats import bootstrap, norm, permutation_test

from leakcache.errors import ScoringError
from leaknet.data.embeddings import Embeddings, concatenate
from leaknet.detectors import GlobalKDE
from leaknet.metrics import closed_values, open_values, roc
from leaknet.metrics import summary as module
from leaknet.metrics.detection import ACCEPTED, Detection, summarise_open, threshold
from leaknet.metrics.summary import (
    Interval,
    Measure,
    Summary,
    Weights,
    bootstrap_p,
    cluster_weights,
    intervals,
    over_seeds,
    sign_flip_p,
    summarise_closed,
)
from leaknet.metrics.values import confusion, per_class_auc
from tests.leaknet.experiments.synthetic import embeddings


@pytest.fixture(scope="module")
def test() -> Embeddings:
    return embeddings(60, "test", seed=1, dimension=6, signal=0.5)


@pytest.fixture(scope="module")
def detection(test: Embeddings) -> Detection:
    return detect(test, 4)


def detect(test: Embeddings, seed: int, names: tuple[str, ...] = ("dan", "eve")) -> Detection:
    train, val = (embeddings(60, fold, seed=seed, dimension=6) for fold in ("train", "val"))
    unknown = [
        embeddings(21, "open", seed=seed + 10 * n, dimension=6, signal=0.3 + 0.4 * n, label=name)
        for n, name in enumerate(names)
    ]
    return Detection.of(GlobalKDE().fit(train, val), val, test, concatenate(unknown))


METRICS = ("auroc", "fpr95", "eer", "ovl", "oscr", "ccr5", "aupr")


def blurred(e: Embeddings, seed: int) -> np.ndarray:
    noise = np.random.default_rng(seed).standard_normal(e.logits.shape)
    return (e.logits + noise).astype(np.float32)


def test_one_seed_has_the_metrics_and_intervals_of_a_single_run(test: Embeddings) -> None:
    found = summarise_closed([test], [test.logits])
    expected = intervals(
        lambda w: closed_values(test.logits, test.targets, None if w is None else w[0]),
        [test.groups],
    )
    for name, summary in found.metrics.items():
        assert summary.value == expected[name].value
        assert summary.interval == (expected[name].low, expected[name].high)
        assert summary.sd is None
    assert list(found.per_class_auc) == list(test.classes)
    areas = per_class_auc(test.logits, test.targets)[0]
    assert [s.value for s in found.per_class_auc.values()] == areas.tolist()
    np.testing.assert_array_equal(found.confusion, confusion(test.logits, test.targets))


def test_an_absent_class_has_no_area_in_json(test: Embeddings) -> None:
    some = test.take(test.labels != test.classes[1])
    areas = summarise_closed([some]).as_dict()["per_class_auc"]
    assert list(areas) == list(test.classes)
    assert areas[test.classes[1]] is None


def test_several_seeds_give_mean_and_sample_deviation(test: Embeddings) -> None:
    logits = [blurred(test, seed) for seed in range(3)]
    each = [closed_values(one, test.targets)["top1"][0] for one in logits]
    top1 = summarise_closed([test] * 3, logits).metrics["top1"]
    assert top1.seeds == tuple(each)
    assert top1.value == pytest.approx(np.mean(each))
    assert top1.sd == pytest.approx(np.std(each, ddof=1))
    low, high = top1.interval or (1, 0)
    assert low < top1.value < high


def test_equal_seeds_do_not_narrow_the_interval(test: Embeddings) -> None:
    # Three copies of one run are no more images than one.
    one = summarise_closed([test], [test.logits]).metrics["top1"]
    three = summarise_closed([test] * 3, [test.logits] * 3).metrics["top1"]
    assert three.interval == pytest.approx(one.interval)
    assert three.sd == 0


def test_a_metric_that_a_seed_lacks_is_left_out() -> None:
    groups = np.array(["a", "b", "c"])

    def measure(names: tuple[str, ...]) -> Measure[str]:
        def measured(weights: Sequence[Weights] | None) -> dict[str, np.ndarray]:
            own = np.ones((1, 3)) if weights is None else weights[0]
            return {name: own @ np.arange(3.0) / own.sum(axis=1) for name in names}

        return measured

    found = over_seeds([measure(("one", "two")), measure(("one",))], [groups])
    assert set(found) == {"one"}
    assert found["one"].seeds == (1.0, 1.0)
    assert found["one"].interval is not None


def test_a_single_prompt_group_has_no_interval(test: Embeddings) -> None:
    alone = replace(test, groups=np.full(len(test), "g"))
    found = summarise_closed([alone], [alone.logits])
    assert all(summary.interval is None for summary in found.metrics.values())
    assert found.as_dict()["interval"]["top1"] is None


def test_one_fold_has_the_open_metrics_of_a_single_run(detection: Detection) -> None:
    d = detection
    found = summarise_open("kde", [[d]])
    parts = {name: d.unknown[d.generators == name] for name in d.names}

    def measure(weights):
        own, *others = weights or [None] * (1 + len(parts))
        tables = {
            name: open_values(d.known, part, d.correct, own, other)
            for (name, part), other in zip(parts.items(), others, strict=True)
        }
        found = {(name, m): values for name, t in tables.items() for m, values in t.items()}
        means = {("mean", m): np.mean([t[m] for t in tables.values()], axis=0) for m in METRICS}
        return found | means

    expected = intervals(measure, d.sets)
    pooled = open_values(d.known, d.unknown, d.correct)
    for name in METRICS:
        assert found.pooled[name].value == pytest.approx(pooled[name][0])
        for group, metrics in (("mean", found.mean), ("eve", found.generators["eve"])):
            one = expected[group, name]
            assert metrics[name].value == pytest.approx(one.value)
            assert metrics[name].interval == pytest.approx((one.low, one.high))
    areas = {name: expected[name, "auroc"].value for name in parts}
    assert found.worst_by("auroc") == min(areas, key=areas.__getitem__)
    assert found.worst["auroc"].value == min(areas.values())


def test_folds_are_averaged_and_kept(test: Embeddings) -> None:
    one, other = detect(test, 4, ("dan", "eve")), detect(test, 9, ("eve", "fay"))
    found = summarise_open("kde", [[one, other]])
    alone = [summarise_open("kde", [[fold]]) for fold in (one, other)]
    assert sorted(found.generators) == ["dan", "eve", "fay"]
    shared = [fold.generators["eve"]["auroc"].value for fold in alone]
    assert found.generators["eve"]["auroc"].value == pytest.approx(np.mean(shared))
    assert found.generators["fay"]["auroc"].value == alone[1].generators["fay"]["auroc"].value
    means = [found.generators[name]["auroc"].value for name in found.generators]
    assert found.mean["auroc"].value == pytest.approx(np.mean(means))
    assert [fold["auroc"].value for fold in found.folds] == [
        fold.pooled["auroc"].value for fold in alone
    ]


def test_the_worst_generator_is_worst_over_all_seeds(test: Embeddings) -> None:
    found = summarise_open("kde", [[detect(test, seed)] for seed in (4, 5)])
    for metric, better in (("auroc", max), ("fpr95", min), ("unknown_accepted", min)):
        values = {name: group[metric].value for name, group in found.generators.items()}
        assert len(set(values.values())) == 2
        assert found.worst[metric].value != better(values.values())
        assert len(found.worst[metric].seeds) == 2


def test_the_layout_of_values_spreads_and_ends_is_one(detection: Detection) -> None:
    result = summarise_open("kde", [[detection], [detection]]).as_dict()
    assert result["interval"]["mean"]["auroc"][0] <= result["mean"]["auroc"]
    assert result["sd"]["eve"]["auroc"] == 0
    assert result["worst_generator"] in {"dan", "eve"}
    assert result["sd"].keys() == result["interval"].keys()


def test_a_generator_cannot_take_the_name_of_a_figure(test: Embeddings) -> None:
    with pytest.raises(ScoringError, match="cannot be called 'mean'"):
        summarise_open("kde", [[detect(test, 1, ("dan", "mean"))]])


def test_the_threshold_is_the_highest_that_accepts_enough_validation_images() -> None:
    train, val = (embeddings(60, fold, seed=3, dimension=6) for fold in ("train", "val"))
    kde = GlobalKDE().fit(train, val)
    scores = kde.score_samples(val)
    line = threshold(kde, val)
    assert (scores >= line).mean() >= ACCEPTED
    assert (scores > line).mean() < ACCEPTED


def test_accepted_shares_are_those_at_the_threshold(detection: Detection) -> None:
    values = summarise_open("kde", [[detection]])
    eve = detection.unknown[detection.generators == "eve"]
    share = (eve >= detection.threshold).mean()
    assert values.generators["eve"]["unknown_accepted"].value == pytest.approx(share)
    known = (detection.known >= detection.threshold).mean()
    assert values.pooled["known_accepted"].value == pytest.approx(known)


def test_a_summary_of_one_seed_has_no_spread() -> None:
    assert Summary((0.5,), None).sd is None
    assert Summary((0.25, 0.75), None).value == 0.5


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
