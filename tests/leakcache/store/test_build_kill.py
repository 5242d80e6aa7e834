"""A build that is killed goes on with the same command and ends as if it had not been."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

from tiny_data import write_images

HERE = Path(__file__).resolve().parent


def test_kills_at_any_step_lose_and_change_nothing(tiny_folder: Path, tmp_path: Path) -> None:
    images = write_images(tmp_path / "images", count=9)
    paths = os.pathsep.join(str(path) for path in (HERE.parents[2], HERE.parent.parent))
    done = subprocess.run(
        [sys.executable, HERE / "killing.py", images, tiny_folder, tmp_path],
        env={**os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
        timeout=240,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads(done.stdout)
    # Some builds were killed when much was left to compute, some little or nothing.
    assert len(found["random"]) == 16
    assert min(found["random"]) < 9 < max(found["random"])
    assert found["computed"] == 18
