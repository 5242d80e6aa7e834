"""Moments against numpy, however the samples are split and in whatever order they merge."""

from __future__ import annotations

from functools import reduce

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from leakcache.store.cache import Moments

SAMPLES = hnp.arrays(
    np.float64,
    st.tuples(st.integers(0, 40), st.just(2), st.just(3)),
    elements=st.floats(-1e6, 1e6, allow_subnormal=False),
)


def assert_equal(found: Moments, samples: np.ndarray) -> None:
    scale = np.abs(samples).max(initial=1.0)
    assert found.count == len(samples)
    np.testing.assert_allclose(found.mean, samples.mean(axis=0), atol=1e-12 * scale)
    np.testing.assert_allclose(found.variance, samples.var(axis=0), atol=1e-11 * scale**2)


@given(samples=SAMPLES.filter(len), data=st.data())
def test_any_split_in_any_order_equals_numpy(samples: np.ndarray, data: st.DataObject) -> None:
    owner = data.draw(hnp.arrays(np.int64, len(samples), elements=st.integers(0, 5)))
    order = data.draw(st.permutations(range(6)))
    parts = (Moments.of(samples[owner == part]) for part in order)
    assert_equal(reduce(Moments.merge, parts, Moments.empty((2, 3))), samples)


@given(first=SAMPLES, second=SAMPLES, third=SAMPLES.filter(len))
def test_merging_is_associative(first: np.ndarray, second: np.ndarray, third: np.ndarray) -> None:
    a, b, c = Moments.of(first), Moments.of(second), Moments.of(third)
    together = np.concatenate([first, second, third])
    assert_equal(a.merge(b).merge(c), together)
    assert_equal(a.merge(b.merge(c)), together)


def test_no_samples_are_neutral_and_have_no_variance() -> None:
    samples = np.random.default_rng(0).normal(size=(7, 4))
    empty, some = Moments.empty((4,)), Moments.of(samples)
    for merged in (empty.merge(some), some.merge(empty)):
        assert_equal(merged, samples)
    nothing = Moments.of(samples[:0])
    assert nothing.count == 0
    assert empty.merge(nothing).count == 0
    assert np.isnan(nothing.variance).all()
    assert not np.isnan(nothing.mean).any()


def test_a_large_offset_does_not_cancel_the_variance() -> None:
    noise = np.random.default_rng(1).normal(size=(1000, 1))
    parts = [Moments.of(1e8 + part) for part in np.array_split(noise, 9)]
    assert reduce(Moments.merge, parts).variance == pytest.approx(noise.var(axis=0), rel=1e-6)


def test_half_precision_is_summed_exactly_enough() -> None:
    samples = np.random.default_rng(2).normal(3, 1, size=(50_000, 2)).astype(np.float16)
    assert_equal(Moments.of(samples), samples.astype(np.float64))
