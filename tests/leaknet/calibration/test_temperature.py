"""One temperature: the likeliest, whatever the scale of the logits."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from leakcache.errors import ScoringError
from leaknet.calibration.temperature import (
    fit_temperature,
    log_probabilities,
    negative_log_likelihood,
)
from leaknet.metrics import expected_calibration_error
from leaknet.metrics.values import correct
from tests.leaknet.calibration.exchangeable import closed


def test_it_is_the_likeliest_of_a_fine_grid() -> None:
    val = closed(60, scale=3.0).select("val")
    found = fit_temperature(val.logits, val.targets)
    grid = np.exp(np.linspace(np.log(0.05), np.log(100), 2000))
    losses = [negative_log_likelihood(val.logits, val.targets, t) for t in grid]
    assert found == pytest.approx(grid[int(np.argmin(losses))], rel=5e-3)
    assert negative_log_likelihood(val.logits, val.targets, found) <= min(losses) + 1e-9


@settings(max_examples=20, deadline=None)
@given(factor=st.floats(0.05, 50))
def test_it_follows_the_scale_of_the_logits(factor: float) -> None:
    val = closed(40, signal=1.0).select("val")
    once = fit_temperature(val.logits, val.targets)
    scaled = fit_temperature(factor * val.logits.astype(np.float64), val.targets)
    assert scaled == pytest.approx(factor * once, rel=1e-3)


def test_overconfident_logits_get_calibrated_on_images_it_never_saw() -> None:
    e = closed(300, scale=8.0)
    val, test = e.select("val"), e.select("test")
    temperature = fit_temperature(val.logits, val.targets)
    right = correct(test.logits, test.targets)
    errors = [
        expected_calibration_error(np.exp(log_probabilities(test.logits, t)).max(axis=1), right)[0]
        for t in (1.0, temperature)
    ]
    assert errors[0] > 0.15
    assert errors[1] < 0.06


def test_it_stays_within_bounds_where_the_likelihood_has_no_maximum() -> None:
    parted = np.array([[9.0, 0.0], [0.0, 9.0]])
    # Every T below 0.5 has the likelihood of the lowest one, but for the tie's preference.
    assert 0.1 <= fit_temperature(parted, np.array([0, 1])) < 0.5
    assert 1000 < fit_temperature(parted, np.array([1, 0])) <= 10_000
    with pytest.raises(ScoringError, match="no validation images"):
        fit_temperature(parted[:0], np.array([], dtype=np.int64))


def test_probabilities_are_a_softmax() -> None:
    logits = np.array([[0.0, 1.0, 900.0], [1.0, 1.0, 1.0]])
    logged = log_probabilities(logits, 2.0)
    np.testing.assert_allclose(np.exp(logged).sum(axis=1), 1)
    np.testing.assert_allclose(logged[0, 2] - logged[0, 1], 449.5)
