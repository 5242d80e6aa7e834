"""Experiments by actors of a local Ray cluster: the tables of one process, though one is killed.

Ray is in no extra that tests install: `pip install ray`, then run this file.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]


def test_a_killed_training_runs_again_alone_and_the_tables_are_the_same(tmp_path: Path) -> None:
    pytest.importorskip("ray", reason='Ray is not installed: pip install "leaknet[ray]"')
    done = subprocess.run(
        [sys.executable, Path(__file__).with_name("acting.py"), tmp_path],
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
        timeout=280,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    begun = json.loads(done.stdout.splitlines()[-1])  # Ray writes before it
    assert begun.pop("leave-1-out-fold1-seed3") == 2
    # 1 on all generators, 2 further leave-out folds, 1 on shuffled labels, 2 rows of the ablation.
    assert sorted(begun.values()) == [1] * 6
