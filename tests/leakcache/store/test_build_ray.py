"""A build by actors of a local Ray cluster is that of one process, though an actor is killed.

Ray is in no extra that tests install: `pip install ray`, then `pytest --full` on this file.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from tiny_data import write_images

HERE = Path(__file__).resolve().parent


def test_a_killed_actor_costs_its_units_only(
    tiny_folder: Path, tmp_path: Path, pytestconfig: pytest.Config
) -> None:
    pytest.importorskip("ray", reason='Ray is not installed: pip install "leaknet[ray]"')
    if not pytestconfig.getoption("--full"):
        pytest.skip("four processes import torch: run it with --full")
    images = write_images(tmp_path / "images", count=30)
    paths = os.pathsep.join(str(path) for path in (HERE.parents[2], HERE.parent.parent, HERE))
    done = subprocess.run(
        [sys.executable, HERE / "acting.py", images, tiny_folder, tmp_path],
        env={**os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
        timeout=280,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    # Another actor took the place of the killed one.
    found = json.loads(done.stdout.splitlines()[-1])  # Ray writes before it
    assert found == {"alone": 60, "actors": 60, "begun": 5}
