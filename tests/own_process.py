"""A script of the tests in a process of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

TESTS = Path(__file__).resolve().parent


def printed(script: Path, *arguments: object, timeout: float = 280) -> Any:
    """The JSON in the last line that a script prints; the test fails where the script does.

    It imports what tests import, and what lies beside it; torch has one thread there.
    """
    paths = os.pathsep.join(map(str, (TESTS.parent, TESTS, script.parent)))
    done = subprocess.run(
        [sys.executable, script, *map(str, arguments)],
        env={**os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
        timeout=timeout,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])
