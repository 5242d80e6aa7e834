"""Figures over seeds: the mean, its spread, its interval; generators and folds."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from leakcache.errors import ScoringError
from leaknet.data.embeddings import Embeddings, concatenate
from leaknet.detectors import GlobalKDE
from leaknet.evaluation.closed_set import summarise_closed
from leaknet.evaluation.open_set import ACCEPTED, Detection, summarise_open, threshold
from leaknet.evaluation.summary import Summary
from leaknet.metrics import closed_values, open_values
from leaknet.metrics.bootstrap import intervals
from leaknet.metrics.closed_set import confusion, per_class_auc
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
