"""A fit is shared by what reads the same, and by nothing else."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from leaknet.config import FeatureConfig
from leaknet.data.split import SplitLatents
from leaknet.model.statistics_branch import Companion
from leaknet.training import fit_cache as shared_fit
from leaknet.training.fit_cache import KEPT, fit_shared
from tests.leaknet.model.test_companion import data, with_copies
from tests.leaknet.tiny import CLASSES


@pytest.fixture(autouse=True)
def nothing_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shared_fit, "_fits", type(shared_fit._fits)())


def fits() -> int:
    return len(shared_fit._fits)


def shared(split: SplitLatents, *, degraded: bool = False) -> tuple[Companion, torch.Tensor]:
    companion = Companion(FeatureConfig(statistics=True, degraded=degraded), 8)
    return companion, fit_shared(companion, split, CLASSES)


def test_a_shared_fit_is_the_fit():
    split = with_copies(data().train)
    direct = Companion(FeatureConfig(statistics=True, degraded=True), 8)
    expected = direct.fit(split, CLASSES)
    for _ in range(2):
        companion, held_out = shared(split, degraded=True)
        torch.testing.assert_close(held_out, expected)
        for name, value in companion.state_dict().items():
            torch.testing.assert_close(value, direct.state_dict()[name])
    assert fits() == 1


def test_what_a_run_does_to_its_fit_is_not_shared():
    split = data().train
    first, held_out = shared(split)
    expected = held_out.clone()
    first.frame.zero_()
    held_out.zero_()
    second, again = shared(split)
    assert second.frame.any()
    torch.testing.assert_close(again, expected)


def test_other_data_have_a_fit_of_their_own():
    split = with_copies(data().train)
    assert split.statistics is not None
    moved = split.statistics.clone()
    moved[0, 0, 0] += 1
    others = (
        replace(split, statistics=moved),
        replace(split, labels=np.roll(split.labels, 1)),
        replace(split, groups=np.roll(split.groups, 1)),
    )
    shared(split)
    for number, other in enumerate(others):
        shared(other)
        assert fits() == 2 + number
    shared(split, degraded=True)
    assert fits() == 2 + len(others)


def test_only_the_latest_are_kept():
    split = data().train
    for turn in range(KEPT + 2):
        shared(replace(split, groups=np.roll(split.groups, turn)))
    assert fits() == KEPT
