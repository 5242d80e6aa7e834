"""The calibration of a run: what may influence it, what it guarantees, and its file."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from leakcache.errors import RunError
from leaknet.calibration import Calibration, calibrate, load_calibration, save_calibration
from leaknet.calibration.calibration import FILE, cut_in_halves, ratio_costs
from leaknet.data.embeddings import Embeddings
from leaknet.detectors import Energy, GlobalKDE
from leaknet.files import read_tensors, save_tensors
from leaknet.scoring.run_embeddings import fit_all
from tests.leaknet.calibration.exchangeable import closed

KINDS = (GlobalKDE, Energy)


def fitted(e: Embeddings) -> Calibration:
    return Calibration.fit(e, fit_all(KINDS, e))


def changed(e: Embeddings, rows: np.ndarray, seed: int = 1) -> Embeddings:
    rng = np.random.default_rng(seed)
    logits, vectors = e.logits.copy(), e.vectors.copy()
    logits[rows] = rng.standard_normal(logits[rows].shape)
    vectors[rows] = 9 * rng.standard_normal(vectors[rows].shape)
    return replace(e, logits=logits, vectors=vectors)


def test_test_and_open_images_change_nothing(tmp_path: Path) -> None:
    e = closed(20)
    for number, one in enumerate((e, changed(e, e.folds == "test"))):
        (tmp_path / str(number)).mkdir()
        calibrate(tmp_path / str(number), fit_all(KINDS, one), one)
    assert (tmp_path / "0" / FILE).read_bytes() == (tmp_path / "1" / FILE).read_bytes()


def test_calibrating_images_have_no_say_in_what_they_are_counted_by() -> None:
    e = closed(20)
    calibrating = np.isin(e.paths, cut_in_halves(e.select("val"))[1].paths)
    other = changed(e, calibrating)
    (kde, _), (again, _) = fit_all(KINDS, e), fit_all(KINDS, other)
    test = e.select("test")
    assert kde.score_samples(test).tolist() == again.score_samples(test).tolist()
    assert fitted(e).temperature == fitted(other).temperature
    assert fitted(e).references["kde"].tolist() != fitted(other).references["kde"].tolist()


def test_p_values_and_sets_hold_what_they_promise_on_the_test_fold() -> None:
    alarms = missed = total = 0
    for seed in range(20):
        e = closed(40, seed=seed)
        detectors = fit_all([Energy], e)
        calibration, test = Calibration.fit(e, detectors), e.select("test")
        alarms += int((calibration.p_values(test, detectors[0]) <= 0.1).sum())
        sets = calibration.prediction_sets(test, detectors[0], 0.1)
        missed += int((~sets[np.arange(len(test)), test.targets]).sum())
        total += len(test)
    # 20 calibrating sets of 60: the spread between sets counts beside that within.
    slack = 4 * np.sqrt(0.09 * (1 / total + 1 / (20 * 61)))
    assert abs(alarms / total - 0.1) < slack
    # Sets of images that are less like the known ones are wider.
    assert 0.02 < missed / total < 0.1 + slack


def test_a_fifth_of_known_images_is_too_weak_to_be_named_and_a_model_without_sources_has_none(
    tmp_path: Path,
) -> None:
    weak = total = 0
    for seed in range(20):
        e = closed(40, seed=seed)
        evidence = np.random.default_rng(seed).normal(size=len(e))
        detectors, e = fit_all([Energy], e), replace(e, evidence=evidence.astype(np.float32))
        calibration, test = Calibration.fit(e, detectors), e.select("test")
        weak += int(calibration.weak(test).sum())
        total += len(test)
        save_calibration(tmp_path, calibration, "weights")
        again = load_calibration(tmp_path, detectors, e, "weights")
        assert again.weak(test).tolist() == calibration.weak(test).tolist()
        unlike = replace(test, evidence=np.full(len(test), -9.0, np.float32))
        assert calibration.weak(unlike).all()
    assert abs(weak / total - 0.2) < 4 * np.sqrt(0.16 * (1 / total + 1 / (20 * 61)))
    plain = closed(20)
    assert not fitted(plain).weak(plain).any()


def test_the_facts_are_of_the_calibrating_half() -> None:
    calibration = fitted(closed(21, scale=6.0))
    facts = calibration.as_dict(0.05)
    assert (facts["images"], facts["groups"]) == (33, 11)
    assert facts["smallest_p"] == 1 / 34
    assert facts["ece_after"] < facts["ece_before"]
    assert 0 < facts["min_cllr"] <= facts["cllr"] < 1
    assert facts["false_alarms"]["exchangeable_images"] == 0.05
    assert facts["false_alarms"]["exchangeable_groups"] > 0.05
    low, high = facts["log10_lr_range"]["ada"]
    assert low < 0 < high


def test_costs_are_those_of_the_images_given() -> None:
    e = closed(60)
    calibration = fitted(e)
    costs = ratio_costs(calibration.ratios, e.select("test"), calibration.temperature)
    assert set(costs) == {"ada", "bob", "cyd"}
    assert all(0 < least <= cost < 1 for cost, least in costs.values())


def test_what_is_kept_comes_back(tmp_path: Path) -> None:
    e = closed(20)
    detectors = fit_all(KINDS, e)
    save_calibration(tmp_path, Calibration.fit(e, detectors), "weights")
    kept = (tmp_path / FILE).read_bytes()
    elsewhere = changed(e, e.folds == "val")
    again = load_calibration(tmp_path, detectors, elsewhere, "weights")
    fresh = Calibration.fit(e, detectors)
    assert again.as_dict(0.1) == fresh.as_dict(0.1)
    test = e.select("test")
    for detector in detectors:
        np.testing.assert_array_equal(
            again.p_values(test, detector), fresh.p_values(test, detector)
        )
    np.testing.assert_array_equal(again.log10_ratios(test), fresh.log10_ratios(test))
    np.testing.assert_array_equal(
        again.prediction_sets(test, detectors[0], 0.1),
        fresh.prediction_sets(test, detectors[0], 0.1),
    )
    assert (tmp_path / FILE).read_bytes() == kept


def test_other_weights_or_detectors_are_calibrated_anew(tmp_path: Path) -> None:
    e = closed(20)
    kde, energy = fit_all(KINDS, e)
    save_calibration(tmp_path, Calibration.fit(e, [kde]), "weights")
    assert set(load_calibration(tmp_path, [energy], e, "weights").references) == {"energy"}
    other = closed(20, seed=1)
    fresh = load_calibration(tmp_path, [energy], other, "others")
    assert fresh.conformity.tolist() == Calibration.fit(other, [energy]).conformity.tolist()


def test_a_run_of_one_validation_prompt_stays_without(tmp_path: Path) -> None:
    e = closed(5)
    groups = np.where(e.folds == "val", "one", e.groups)
    single = replace(e, groups=groups)
    calibrate(tmp_path, fit_all([Energy], single), single)
    assert not (tmp_path / FILE).exists()


def test_a_damaged_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / FILE).write_bytes(b"junk")
    with pytest.raises(RunError, match="damaged"):
        load_calibration(tmp_path, [], closed(5), "weights")


def test_a_class_without_validation_images_leaves_a_calibration_that_can_be_read(
    tmp_path: Path,
) -> None:
    e = closed(30)
    e = e.take((e.folds != "val") | (e.labels != e.classes[0]))
    detectors = fit_all([Energy], e)
    save_calibration(tmp_path, Calibration.fit(e, detectors), "weights")
    again = load_calibration(tmp_path, detectors, e, "weights")
    assert np.isnan(again.ratios.slope).tolist() == [True, False, False]
    assert np.isnan(again.log10_ratios(e)).any(axis=0).tolist() == [True, False, False]


def test_a_calibration_that_lacks_a_part_is_made_anew_and_one_of_other_shapes_is_refused(
    tmp_path: Path,
) -> None:
    e = closed(30)
    detectors = fit_all([Energy], e)
    fresh = Calibration.fit(e, detectors)
    save_calibration(tmp_path, fresh, "weights")
    path = tmp_path / "calibration.safetensors"
    tensors, metadata = read_tensors(path)
    save_tensors(path, {k: v for k, v in tensors.items() if k != "confidence"}, metadata)
    again = load_calibration(tmp_path, detectors, e, "weights")
    assert again.confidence.tolist() == fresh.confidence.tolist()
    save_tensors(path, {k: v[:2] if v.ndim else v for k, v in tensors.items()}, metadata)
    with pytest.raises(RunError, match=r"calibration\.safetensors does not fit the run"):
        load_calibration(tmp_path, detectors, e, "weights")
