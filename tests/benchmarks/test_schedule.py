"""The simulated schedule of a build keeps within its bounds."""

from __future__ import annotations

import pytest
from benchmarks.schedule import simulate, simulate_without_claims
from hypothesis import given
from hypothesis import strategies as st

TIMES = st.lists(st.floats(0.1, 10), min_size=1, max_size=30)


@given(times=TIMES, workers=st.integers(1, 8))
def test_it_lies_between_perfect_balance_and_one_unit_more(times, workers):
    found = simulate(times, [1.0] * workers)
    perfect = max(*times, sum(times) / workers)
    assert perfect <= found * (1 + 1e-9)
    assert found <= sum(times) / workers + max(times) + 1e-9


@given(times=TIMES, death=st.floats(0, 20))
def test_a_dead_worker_costs_at_most_the_rest_of_its_work_its_unit_and_the_wait(times, death):
    found = simulate(times, [1.0, 1.0], {1: death}, expiry=5.0)
    assert found <= sum(times) + 2 * max(times) + death + 5.0
    assert found >= simulate(times, [1.0, 1.0]) - 1e-9 - max(times)


def test_a_slow_worker_delays_the_end_by_its_last_unit_only():
    assert simulate([1.0] * 100, [1.0, 1.0]) == 50
    assert simulate([1.0] * 100, [1.0, 0.25]) == 80
    assert simulate([1.0] * 99, [1.0, 0.01]) == pytest.approx(100)


@given(times=TIMES, workers=st.integers(2, 8), death=st.floats(0, 20))
def test_without_claims_nobody_waits_and_all_is_computed(times, workers, death):
    for deaths in ({}, {1: death}):
        seconds, computed = simulate_without_claims(times, [1.0] * workers, deaths)
        assert max(*times, sum(times) / workers) <= seconds * (1 + 1e-9)
        assert seconds <= sum(times) + 1e-9
        assert len(times) <= computed <= len(times) * workers


def test_nobody_left_is_an_error():
    with pytest.raises(ValueError, match="all workers are dead"):
        simulate([1.0, 1.0], [1.0], {0: 1.5})
