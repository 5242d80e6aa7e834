"""Experiments by actors of a local Ray cluster: the tables of one process, though one is killed."""

from __future__ import annotations

from pathlib import Path

import pytest
from own_process import printed


def test_a_killed_training_runs_again_alone_and_the_tables_are_the_same(
    tmp_path: Path, pytestconfig: pytest.Config
) -> None:
    pytest.importorskip("ray", reason='Ray is not installed: pip install "leaknet[ray]"')
    if not pytestconfig.getoption("--full"):
        pytest.skip("four processes train: run it with --full")
    begun = printed(Path(__file__).with_name("acting.py"), tmp_path)
    assert begun.pop("leave-1-out-fold1-seed3") == 2
    # 1 on all generators, 2 further leave-out folds, 1 on shuffled labels, 2 rows of the ablation.
    assert sorted(begun.values()) == [1] * 6
