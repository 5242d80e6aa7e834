"""Actors of a local Ray cluster of which one is killed, for `test_ray_pool`; a program of its own.

    python pooling.py FOLDER

Prints one JSON object: results by item, how many actors began, how often each item was computed,
and the message of an item that kills every actor.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import ray

from leakcache.errors import DataError, LeakError
from leakcache.processes import RayPool

ACTORS, ITEMS = 4, 20


@dataclass(frozen=True)
class Squares:
    """Squares of numbers; the number 7 kills its first actor, or each."""

    folder: Path
    every: bool = False

    def __call__(self, device: str) -> Callable[[int], int]:
        (self.folder / f"actor-{os.getpid()}").touch()

        def square(number: int) -> int:
            with (self.folder / f"item-{number}").open("a") as file:
                file.write("x")
            if number == 7 and (self.every or len((self.folder / "item-7").read_text()) == 1):
                os.kill(os.getpid(), signal.SIGKILL)
            if number < 0:
                raise DataError("a number below zero")
            time.sleep(0.05)
            return number**2

        return square


def failure(pool: RayPool, folder: Path, items: list[int]) -> str:
    folder.mkdir()
    try:
        list(pool.map(Squares(folder, every=True), items))
    except LeakError as error:
        return f"{type(error).__name__}: {error}"
    return ""


def main(folder: Path) -> None:
    ray.init(num_cpus=ACTORS, log_to_driver=False, include_dashboard=False)
    pool = RayPool(actors=ACTORS)
    results = dict(pool.map(Squares(folder), range(ITEMS)))
    calls = Counter({n: len((folder / f"item-{n}").read_text()) for n in range(ITEMS)})
    found = {
        "results": [results[n] for n in range(ITEMS)],
        "actors": len(list(folder.glob("actor-*"))),
        "again": sum(calls.values()) - ITEMS,
        "deadly": failure(pool, folder / "deadly", [7]),
        "error": failure(pool, folder / "error", [-1]),
    }
    ray.shutdown()
    print(json.dumps(found))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
