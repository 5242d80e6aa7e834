"""Calibration of same-source ratios: on generators that the fits have not seen."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from leaknet.calibration.likelihood_ratio import cllr, min_cllr
from leaknet.model.feature_space import GramSpace
from leaknet.model.pair_calibration import (
    PairCalibration,
    calibrate_pairs,
    clusters,
    held_out_pairs,
)
from leaknet.model.two_covariance import TwoCovariance, fit_directions

CLASSES, EACH, LENGTH = 12, 10, 40
TARGETS = torch.arange(CLASSES).repeat_interleave(EACH)
GROUPS = np.tile(np.arange(EACH), CLASSES)


def images(targets: np.ndarray, seed: int) -> torch.Tensor:
    """Images of sources that vary in eight of the directions in which images do."""
    rng = np.random.default_rng(seed)
    sources = np.zeros((int(targets.max()) + 1, LENGTH))
    sources[:, :8] = 1.5 * rng.normal(size=(len(sources), 8))
    return torch.from_numpy(sources[targets] + rng.normal(size=(len(targets), LENGTH)))


def calibrated(seed: int = 0) -> tuple[torch.Tensor, PairCalibration]:
    values = images(TARGETS.numpy(), seed)
    held_out = list(
        held_out_pairs(GramSpace(values @ values.T, GROUPS).fit_sources, TARGETS, GROUPS, 1.0)
    )
    found = calibrate_pairs(held_out)
    assert found is not None
    return values, found


def test_the_compared_images_are_unseen_and_all_are_compared():
    values = images(TARGETS.numpy(), 1)
    gram, compared = values @ values.T, []
    for fold in held_out_pairs(GramSpace(gram, GROUPS).fit_sources, TARGETS, GROUPS, 1.7):
        inside = np.isin(TARGETS, fold.targets)
        rows, others = np.flatnonzero(~inside), np.flatnonzero(inside)
        compared += others.tolist()
        own = torch.unique(TARGETS[rows], return_inverse=True)[1]
        directions = fit_directions(gram[rows][:, rows], own)
        coordinates = gram[others][:, rows] @ directions.weights - directions.offset
        expected = TwoCovariance.of(directions, 1.7).pairwise(coordinates)
        np.testing.assert_allclose(fold.ratios, expected, rtol=1e-6, atol=1e-6)
        _, same = fold.pairs()
        assert 0 < same.sum() < len(same)
    assert sorted(compared) == list(range(len(TARGETS)))


def test_ratios_of_new_sources_are_calibrated():
    """They cost little more than their order needs, and no chance claims more than is true."""
    costs, least = [], []
    for seed in range(3):
        values, calibration = calibrated(seed)
        directions = fit_directions(values @ values.T, TARGETS)
        targets = np.repeat(np.arange(30), 6)
        fresh = images(targets, 100 + seed)
        coordinates = fresh @ values.T @ directions.weights - directions.offset
        ratios = calibration.log10(TwoCovariance.of(directions, 1.0).pairwise(coordinates).numpy())
        one, other = np.triu_indices(len(targets), 1)
        same = targets[one] == targets[other]
        costs.append(cllr(ratios[one, other], same))
        least.append(min_cllr(ratios[one, other], same))
        weights = np.where(same, 0.5 / same.sum(), 0.5 / (~same).sum())
        chances = 1 / (1 + 10 ** -ratios[one, other])
        for sure, side in ((chances >= 0.7, 1), (chances <= 0.3, -1)):
            right = (weights * same)[sure].sum() / weights[sure].sum()
            stated = (weights * chances)[sure].sum() / weights[sure].sum()
            assert side * (right - stated) > -0.08
    assert np.mean(costs) < np.mean(least) + 0.15
    assert np.mean(costs) < 0.8


def test_ratios_end_where_the_images_no_longer_support_them():
    _, calibration = calibrated()
    assert -np.log10(len(TARGETS) + 1) <= calibration.low < 0 < calibration.high
    assert calibration.high <= np.log10(len(TARGETS) + 1)
    extreme = calibration.log10(np.array([-1e6, 1e6]))
    np.testing.assert_allclose(extreme, [calibration.low, calibration.high])
    assert (calibration.images, calibration.generators) == (len(TARGETS), CLASSES)


def test_uninformative_images_give_ratios_of_one():
    values = torch.from_numpy(np.random.default_rng(3).normal(size=(len(TARGETS), LENGTH)))
    held_out = list(
        held_out_pairs(GramSpace(values @ values.T, GROUPS).fit_sources, TARGETS, GROUPS, 1.0)
    )
    found = calibrate_pairs(held_out)
    assert found is not None
    assert abs(found.auroc - 0.5) < 0.1
    assert np.abs(found.log10(held_out[0].ratios)).max() < 0.3


@pytest.mark.parametrize("reason", ["three generators", "one prompt"])
def test_without_pairs_there_is_no_calibration(reason: str):
    targets = TARGETS[: 3 * EACH] if reason == "three generators" else TARGETS
    groups = GROUPS[: len(targets)] * (reason == "three generators")
    values = images(targets.numpy(), 0)
    held_out = list(
        held_out_pairs(GramSpace(values @ values.T, groups).fit_sources, targets, groups, 1.0)
    )
    assert calibrate_pairs(held_out) is None


def test_values_survive_a_tensor():
    _, calibration = calibrated()
    assert PairCalibration.of(calibration.tensor()) == calibration
    assert PairCalibration.of(torch.zeros(0)) is None


def test_clusters_are_joined_down_to_the_cut_and_numbered_in_order():
    truth = np.array([1, 0, 0, 1, 2, 1])
    ratios = np.where(truth[:, None] == truth, 1.0, -0.5)
    np.testing.assert_array_equal(clusters(ratios, 0.2), [0, 1, 1, 0, 2, 0])
    np.testing.assert_array_equal(clusters(ratios, -0.5), np.zeros(6))
    np.testing.assert_array_equal(clusters(ratios, 1.1), np.arange(6))
    np.testing.assert_array_equal(clusters(ratios[:1, :1], 0.0), [0])


def test_the_cut_groups_held_out_images_best():
    from sklearn.metrics import adjusted_rand_score

    values, calibration = calibrated()
    scores: dict[float, float] = {}
    for fold in held_out_pairs(
        GramSpace(values @ values.T, GROUPS).fit_sources, TARGETS, GROUPS, 1.0
    ):
        ratios = calibration.log10(fold.ratios)
        for cut in (calibration.low, calibration.cut, calibration.high):
            found = adjusted_rand_score(fold.targets, clusters(ratios, cut))
            scores[cut] = scores.get(cut, 0.0) + found
    assert scores[calibration.cut] == max(scores.values()) > 0
