"""Mutated image files are decoded or refused: no other exception, bounded time and memory."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest

from tests.faults.conftest import Tally
from tests.faults.world import ROOT

SAMPLE, FULL = 200, 10_000
BATCH = 200
"""Files of one process."""
MOST_SECONDS = 30.0
MOST_MEBIBYTES = 2500.0
"""Peak of a process that decodes one file of at most 88 megapixels, libraries included."""


def attempts(first: int, last: int) -> Iterator[dict[str, Any]]:
    """Results of the files of these seeds; after a crash, goes on with the next file."""
    while first < last:
        done = subprocess.run(
            [sys.executable, "-m", "tests.faults.decode_mutated", str(first), str(last)],
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=False,
        )
        lines = [json.loads(line) for line in done.stdout.splitlines()]
        yield from (line for line in lines if "result" in line)
        if done.returncode == 0:
            return
        lost = lines[-1]["seed"] if lines else first
        ended = f"exit {done.returncode}"
        yield {"seed": lost, "name": "?", "result": ended, "reason": done.stderr}
        first = lost + 1


@pytest.mark.timeout(7200)
def test_a_mutated_file_is_an_image_or_refused(tally: Tally, full: bool) -> None:
    count, wrong = (FULL if full else SAMPLE), []
    for first in range(0, count, BATCH):
        for one in attempts(first, min(first + BATCH, count)):
            tally[one["name"].split()[0], "mutated", one["result"]] += 1
            slow = one.get("seconds", 0) > MOST_SECONDS or one.get("peak", 0) > MOST_MEBIBYTES
            refused = one["result"] == "refused"
            unclear = refused and ("\n" in one["reason"] or not one["reason"])
            if slow or unclear or not (refused or one["result"] == "image"):
                wrong.append(one)
    assert not wrong
