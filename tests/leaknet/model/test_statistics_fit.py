"""A fit is shared by what reads the same, and by nothing else."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from leaknet.data.columns import ImageColumns
from leaknet.model import statistics_fit
from leaknet.model.statistics_branch import StatisticsBranch
from leaknet.model.statistics_fit import KEPT, cached_fit, fit_embedding
from tests.leaknet.model.test_statistics_branch import data, new_branch, with_copies
from tests.leaknet.tiny import CLASSES


@pytest.fixture(autouse=True)
def nothing_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(statistics_fit, "_fits", type(statistics_fit._fits)())


def fits() -> int:
    return len(statistics_fit._fits)


def shared(
    split: ImageColumns, val: ImageColumns | None = None, *, degraded: bool = False
) -> tuple[StatisticsBranch, torch.Tensor]:
    branch = new_branch(degraded=degraded)
    images = replace(data(), train=split, val=data().val if val is None else val)
    return branch, torch.cat([part.flatten() for part in cached_fit(branch, images, CLASSES)])


def test_a_fit_cache_is_the_fit():
    split = with_copies(data().train)
    direct = new_branch(degraded=True)
    fitted = fit_embedding(direct, replace(data(), train=split), CLASSES)
    expected = torch.cat([part.flatten() for part in fitted])
    for _ in range(2):
        branch, held_out = shared(split, degraded=True)
        torch.testing.assert_close(held_out, expected)
        for name, value in branch.named_buffers():
            torch.testing.assert_close(value, direct.get_buffer(name))
    assert fits() == 1


def test_what_a_run_does_to_its_fit_is_not_shared():
    split = data().train
    first, held_out = shared(split)
    expected = held_out.clone()
    first.directions.zero_()
    held_out.zero_()
    second, again = shared(split)
    assert second.directions.any()
    torch.testing.assert_close(again, expected)


def test_other_data_have_a_fit_of_their_own():
    split = with_copies(data().train)
    moved = split["pixel_statistics"].clone()
    moved[0, 0, 0] += 1
    others = (
        split.with_column("pixel_statistics", moved),
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
