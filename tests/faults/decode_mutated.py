"""Decode mutated images one after another; a program of its own, since a decoder may crash.

    python -m tests.faults.decode_mutated FIRST LAST

Prints one JSON object a file: its seed and the format, `result` (`image`, `refused` or the name of
an exception that is no refusal), `reason`, `seconds`, and the peak of memory in MiB.
"""

from __future__ import annotations

import json
import re
import signal
import sys
import time
from pathlib import Path

from leakcache.errors import ImageError
from leakcache.images.decode import Preprocessing, decoded
from leakcache.images.preprocess import preprocess, refuse_tiny
from tests.faults.image_mutations import mutated

SECONDS = 60
"""A file that takes longer ends the process."""


def attempt(seed: int) -> dict[str, object]:
    name, data = mutated(seed)
    Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
    signal.alarm(SECONDS)
    start = time.perf_counter()
    result, reason = "image", ""
    try:
        with decoded(data) as image:
            refuse_tiny(image.size, Preprocessing())
            preprocess(image, Preprocessing())
    except ImageError as error:
        result, reason = "refused", str(error)
    except Exception as error:
        result, reason = type(error).__name__, str(error)
    signal.alarm(0)
    return {
        "seed": seed,
        "name": name,
        "result": result,
        "reason": reason,
        "seconds": time.perf_counter() - start,
        "peak": peak(),
    }


def peak() -> float:
    found = re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert found
    return int(found[1]) / 1024


def main(first: int, last: int) -> None:
    for seed in range(first, last):
        print(json.dumps({"seed": seed}), flush=True)
        print(json.dumps(attempt(seed)), flush=True)


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))
