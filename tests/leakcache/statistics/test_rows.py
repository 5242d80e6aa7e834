"""Statistics in 8 bits: half a step at most, per family and row, whatever the other rows are."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from leakcache.statistics.rows import LEVELS, dequantise, quantise, stored_length

LENGTHS = {"wide": 40, "narrow": 7, "constant": 3, "single": 1}


def rows_of(seed: int, count: int = 3) -> np.ndarray:
    generator = np.random.default_rng(seed)
    scale = np.repeat([8.0, 0.01, 0.0, 0.0], list(LENGTHS.values()))
    values: np.ndarray = generator.normal(size=(count, 2, len(scale))) * scale - 3
    return values.astype(np.float32)


@given(seed=st.integers(0, 10_000))
def test_error_is_at_most_half_a_step_of_the_family(seed: int) -> None:
    rows = rows_of(seed)
    stored = quantise(rows, LENGTHS)
    assert stored.shape == (3, 2, stored_length(LENGTHS))
    found = dequantise(stored, LENGTHS)
    start = 0
    for length in LENGTHS.values():
        exact = rows[..., start : start + length]
        read = found[..., start : start + length]
        half = np.ptp(exact, axis=-1, keepdims=True) / LEVELS / 2
        rounding = np.abs(exact) * 2**-11 + 1e-6
        assert (np.abs(read - exact) <= half * 1.001 + rounding).all()
        start += length


def test_a_row_depends_on_no_other() -> None:
    rows = rows_of(1, count=8)
    together = quantise(rows, LENGTHS)
    for row, stored in zip(rows, together, strict=True):
        np.testing.assert_array_equal(quantise(row, LENGTHS), stored)


@pytest.mark.parametrize("broken", [np.nan, np.inf, -np.inf, 1e30])
def test_what_is_not_finite_stays_so_in_its_family_alone(broken: float) -> None:
    rows = rows_of(2)
    rows[1, 0, 5] = broken
    found = dequantise(quantise(rows, LENGTHS), LENGTHS)
    assert not np.isfinite(found[1, 0, : LENGTHS["wide"]]).all()
    found[1, 0, : LENGTHS["wide"]] = 0
    assert np.isfinite(found).all()
