"""What is measured on the test fold is what a count by hand gives."""

from __future__ import annotations

import numpy as np
import pytest

from leaknet.calibration import Calibration
from leaknet.calibration.calibration import measure_known, measure_verdicts
from leaknet.detectors import Energy
from leaknet.scoring.fitted_detectors import fit_all
from tests.leaknet.calibration.exchangeable import CLASSES, closed


@pytest.mark.parametrize("alpha", [0.05, 0.3])
def test_rates_are_counts_over_the_images(alpha: float) -> None:
    e = closed(30, signal=3.0)
    detectors = fit_all([Energy], e)
    calibration, test = Calibration.fit(e, detectors), e.select("test")
    found = measure_known(calibration, detectors[0], test, alpha)
    verdicts, held, wrong = [], 0, 0
    for row in range(len(test)):
        one = test.take(np.array([row]))
        members = [
            name
            for name, inside in zip(
                CLASSES, calibration.prediction_sets(one, alpha)[0], strict=True
            )
            if inside
        ]
        label = str(one.labels[0])
        held += label in members
        if calibration.p_values(one, detectors[0])[0] <= alpha:
            verdicts.append("unknown")
        elif len(members) == 1:
            verdicts.append("known")
            wrong += members != [label]
        else:
            verdicts.append("unsure")
    assert found["false_alarms"] == pytest.approx(verdicts.count("unknown") / 90)
    assert found["coverage"] == pytest.approx(held / 90)
    assert np.mean(list(found["coverage_by_generator"].values())) == pytest.approx(held / 90)
    assert found["verdicts"]["known"] == pytest.approx(verdicts.count("known") / 90)
    assert found["verdicts"]["unsure"] == pytest.approx(verdicts.count("unsure") / 90)
    assert found["verdicts"]["named_wrong"] == pytest.approx(wrong / 90)
    assert 0 <= found["min_cllr"] <= found["cllr"] < 1
    shares = measure_verdicts(calibration, detectors[0], test, alpha)
    assert sum(shares.values()) == pytest.approx(1)
