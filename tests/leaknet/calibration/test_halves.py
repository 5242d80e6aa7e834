"""Two halves of validation prompts: disjoint, balanced, repeatable."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from leakcache.errors import ScoringError
from leaknet.calibration.calibration import calibration_limits, choosing_half, cut_in_halves
from leaknet.calibration.conformal import conformal_p_values
from tests.leaknet.calibration.exchangeable import CLASSES, closed


@settings(max_examples=30, deadline=None)
@given(prompts=st.integers(2, 40), seed=st.integers(0, 5))
def test_a_prompt_is_in_one_half_and_every_image_in_one(prompts: int, seed: int) -> None:
    val = closed(prompts).select("val")
    choosing, calibrating = cut_in_halves(val, seed)
    assert not set(choosing.groups.tolist()) & set(calibrating.groups.tolist())
    assert sorted([*choosing.paths, *calibrating.paths]) == sorted(val.paths)
    assert 0 <= len(calibrating) - len(choosing) <= len(CLASSES)


def test_the_order_of_the_images_does_not_matter_and_the_seed_does() -> None:
    val = closed(20).select("val")
    shuffled = val.take(np.random.default_rng(0).permutation(len(val)))
    halves = [set(cut_in_halves(e, seed)[1].paths) for e, seed in ((val, 0), (shuffled, 0))]
    assert halves[0] == halves[1] != set(cut_in_halves(val, 1)[1].paths)


@pytest.mark.parametrize("prompts", [1, 2, 7, 12, 13, 14, 40])
def test_limits_are_known_before_training(prompts: int) -> None:
    val = closed(prompts).select("val")
    limits = calibration_limits(val.groups, val.labels, 0.05)
    if prompts < 2:
        assert "needs two" in limits
        return
    images = len(cut_in_halves(val)[1])
    reference = np.arange(images, dtype=float)
    possible = conformal_p_values(reference, np.array([-1.0]))[0] <= 0.05
    assert (limits == "") == possible
    assert possible or f"only {images} calibration images" in limits


def test_prompts_of_single_classes_are_dealt_class_by_class() -> None:
    val = closed(20).select("val")
    alone = replace(val, groups=val.paths)
    for half in cut_in_halves(alone):
        assert np.bincount(half.targets).tolist() == [10, 10, 10]


def test_one_prompt_cannot_be_cut_but_can_be_chosen_on() -> None:
    val = closed(4).select("val")
    single = replace(val, groups=np.full(len(val), "one"))
    with pytest.raises(ScoringError, match="1 prompt group") as caught:
        cut_in_halves(single)
    assert "\n" not in str(caught.value)
    assert choosing_half(single) is single
