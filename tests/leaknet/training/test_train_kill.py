"""Training killed by SIGKILL at any moment, and resumed, ends in the same bytes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_twenty_kills_change_nothing(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "tests.leaknet.kill_and_resume", str(tmp_path)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    outcome = json.loads(done.stdout.splitlines()[-1])
    assert outcome["killed"] >= 15
    assert outcome["resumed"] >= 10
    assert outcome["equal"] == [True] * 5
