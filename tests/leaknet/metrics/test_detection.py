"""Paired differences of two methods on the same images."""

from __future__ import annotations

import numpy as np
import pytest

from leaknet.data.embeddings import Embeddings
from leaknet.metrics import auroc, closed_values
from leaknet.metrics.detection import OPEN, Detection, Evaluated
from tests.leaknet.experiments.synthetic import embeddings


@pytest.fixture(scope="module")
def test() -> Embeddings:
    return embeddings(240, "test", seed=1, dimension=6, signal=0.4, groups=60)


def noisy(test: Embeddings, strength: float, seed: int = 0) -> np.ndarray:
    noise = np.random.default_rng(seed).standard_normal(test.logits.shape)
    return (test.logits + strength * noise).astype(np.float32)


def one(test: Embeddings, scores: np.ndarray) -> Evaluated:
    return Evaluated((test,), (scores,))


def test_equal_runs_do_not_differ(test: Embeddings) -> None:
    for found in one(test, test.logits).minus(one(test, test.logits)).values():
        assert (found.value, found.interval, found.p) == (0, (0, 0), 1)


def test_a_better_run_is_told_from_a_worse_one(test: Embeddings) -> None:
    better, worse = one(test, test.logits), one(test, noisy(test, 2.0))
    found, back = better.minus(worse), worse.minus(better)
    top1 = [closed_values(e.scores[0], test.targets)["top1"][0] for e in (better, worse)]
    assert found["top1"].value == pytest.approx(top1[0] - top1[1])
    for name in ("top1", "balanced", "macro_auc"):
        low, high = found[name].interval or (0, 0)
        assert 0 < low <= found[name].value <= high
        assert found[name].p is not None
        assert found[name].p < 0.01
        assert back[name].value == pytest.approx(-found[name].value)
        assert back[name].p == pytest.approx(found[name].p)


def test_seeds_are_paired_one_by_one(test: Embeddings) -> None:
    ours = Evaluated((test, test), (test.logits, noisy(test, 0.5)))
    theirs = Evaluated((test, test), (noisy(test, 1.0, 1), noisy(test, 1.0, 2)))
    values = [
        [closed_values(scores, test.targets)["macro_auc"][0] for scores in one.scores]
        for one in (ours, theirs)
    ]
    assert ours.minus(theirs)["macro_auc"].seeds == pytest.approx(np.subtract(*values))


def test_open_sets_are_compared_on_the_same_resamples(test: Embeddings) -> None:
    rng = np.random.default_rng(0)
    known, unknown = rng.standard_normal(240) + 1, rng.standard_normal(100)

    def detected(known: np.ndarray, unknown: np.ndarray) -> Evaluated:
        right = np.ones(240, dtype=bool)
        groups, names = test.groups, np.full(100, "eve")
        detection = Detection(known, unknown, right, names, groups, groups[:100], 0.0)
        return Evaluated((test,), (test.logits,), (detection,))

    plain = detected(known, unknown)
    found = detected(3 * known + 0.9, 3 * unknown).minus(plain)[f"{OPEN}auroc"]
    expected = auroc(3 * known + 0.9, 3 * unknown) - auroc(known, unknown)
    assert found.value == pytest.approx(expected)
    assert found.interval is not None
    assert found.interval[0] > 0
    same = detected(np.exp(known), np.exp(unknown)).minus(plain)
    opened = [d for name, d in same.items() if name.startswith(OPEN)]
    assert all(abs(d.value) < 1e-12 and d.p == 1 for d in opened)
    assert not [name for name in plain.minus(one(test, test.logits)) if name.startswith(OPEN)]
