"""Verdict rates are counts over the images."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from leaknet.calibration import Calibration
from leaknet.detectors import Energy
from leaknet.experiments.answers import Rule, rates
from leaknet.scoring.families import Families, FamilyCalibration
from leaknet.scoring.run_embeddings import fit_all
from tests.leaknet.calibration.exchangeable import CLASSES, closed


@pytest.mark.parametrize("alpha", [0.05, 0.3])
def test_rates_are_counts_over_the_images(alpha: float) -> None:
    e = closed(30, signal=3.0)
    detectors = fit_all([Energy], e)
    calibration, test = Calibration.fit(e, detectors), e.select("test")
    rule = Rule(calibration, detectors[0], alpha)
    columns = rule.known_columns(test)
    found = {name: float(value[0]) for name, value in rates(columns, None).items()}
    verdicts, held, wrong = [], 0, 0
    for row in range(len(test)):
        one = test.take(np.array([row]))
        members = [
            name
            for name, inside in zip(
                CLASSES, calibration.prediction_sets(one, detectors[0], alpha)[0], strict=True
            )
            if inside
        ]
        label = str(one.labels[0])
        held += label in members
        if calibration.p_values(one, detectors[0])[0] <= alpha:
            verdicts.append("unknown")
        elif calibration.log_probabilities(one).max() > calibration.naming_threshold(alpha):
            verdicts.append("known")
            wrong += CLASSES[int(one.logits[0].argmax())] != label
        else:
            verdicts.append("unsure")
    assert found["false_alarms"] == pytest.approx(verdicts.count("unknown") / 90)
    assert found["coverage"] == pytest.approx(held / 90)
    named = verdicts.count("known") / 90
    assert found["named_right"] + found["named_wrong"] == pytest.approx(named)
    assert found["named_wrong"] == pytest.approx(wrong / 90)
    assert found["unsure"] == pytest.approx(verdicts.count("unsure") / 90)
    each = rule.verdicts(test)
    assert sum(each.values()) == pytest.approx(np.ones(90))
    rejected = each["unknown"] + each["outside"]
    assert rejected.mean() == pytest.approx(found["false_alarms"])
    weights = np.zeros((1, 90))
    weights[0, :2] = 1, 3
    expected = (columns["set_size"][0] + 3 * columns["set_size"][1]) / 4
    assert rates(columns, [weights])["set_size"][0] == pytest.approx(expected)


def test_images_far_below_calibration_are_outside_and_still_false_alarms() -> None:
    e = closed(30, signal=3.0)
    detectors = fit_all([Energy], e)
    calibration, test = Calibration.fit(e, detectors), e.select("test")
    far = replace(test, logits=test.logits - 1000)
    rule = Rule(calibration, detectors[0], 0.05)
    found = rule.known_columns(far)
    assert found["outside"].mean() == found["false_alarms"].mean() == 1
    assert rule.verdicts(far)["unknown"].sum() == 0
    assert found["covered"].mean() == 1


def test_families_are_named_where_no_generator_is() -> None:
    e = closed(30, signal=1.0)
    detectors = fit_all([Energy], e)
    calibration, test = Calibration.fit(e, detectors), e.select("test")
    families = Families.of({"first two": CLASSES[:2]}, CLASSES)
    plain = Rule(calibration, detectors[0], 0.3)
    rule = replace(plain, families=FamilyCalibration.fit(families, calibration, e))
    before, after = plain.verdicts(test), rule.verdicts(test)
    assert after["family"].sum() > 0
    np.testing.assert_array_equal(before["known"], after["known"])
    np.testing.assert_array_equal(before["unsure"], after["unsure"] + after["family"])
    found = rule.known_columns(test)
    named = found["family_right"] + found["family_wrong"]
    np.testing.assert_array_equal(named, after["family"])
    assert (found["family_set_size"] <= len(families.names)).all()
    right = families.index[test.logits.argmax(axis=1)] == families.index[test.targets]
    assert found["family_wrong"][right].sum() == 0
