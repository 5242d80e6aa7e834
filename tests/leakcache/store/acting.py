"""A build by Ray actors of which one is killed, for `test_build_programs`; a program of its own.

    python acting.py IMAGES WEIGHTS SCRATCH

Prints one JSON object: images that were computed alone and by actors, and how many actors began.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
import time
from pathlib import Path

import ray
from tiny_data import SMALL
from working import content

from leakcache.dataset.index import read_index
from leakcache.encoder.autoencoder import Encoder
from leakcache.processes import RayPool
from leakcache.store.build import BuildReport, build_cache
from leakcache.store.column_store import ColumnStore
from leakcache.store.zarr_column import ColumnSpec

ACTORS = 4
NAMES = ("z0", "pixels_resize256")


def small_shards() -> None:
    ColumnSpec.per_shard = 2  # type: ignore[assignment, method-assign]


def wait_for_all() -> None:
    """In each actor: store nothing until all of them have come."""
    small_shards()
    plain = ColumnStore._write

    def write(store: ColumnStore, *given: object) -> None:
        while len(list((store.folder / "plan" / "workers").iterdir())) <= ACTORS:
            time.sleep(0.05)
        plain(store, *given)  # type: ignore[arg-type]

    ColumnStore._write = write  # type: ignore[method-assign]


def build(images: Path, encoder: Encoder, home: Path, pool: RayPool | None) -> BuildReport:
    index, done = read_index(images), list[int]()
    report = build_cache(
        index,
        encoder,
        home / "all",
        split="all",
        preprocessing=SMALL,
        columns=NAMES,
        pool=pool,
        advance=done.append,
    )
    assert sum(done) == len(index.records)
    return report


def kill_one(plan: Path, begun: set[str]) -> None:
    """Kill an actor when all have come and some units are done; note who came."""
    killed = False
    while not plan.is_dir():
        time.sleep(0.01)
    while plan.is_dir():
        for file in plan.glob("workers/*"):
            begun.add(file.name)
        processes = {int(name.split("-")[-2]) for name in begun} - {os.getpid()}
        if not killed and len(processes) == ACTORS and any((plan / "done").iterdir()):
            os.kill(max(processes), signal.SIGKILL)
            killed = True
        time.sleep(0.01)


def main(images: Path, weights: Path, scratch: Path) -> None:
    small_shards()
    encoder = Encoder.load(str(weights))
    alone = build(images, encoder, scratch / "alone", None)
    hook = {"worker_process_setup_hook": wait_for_all}
    ray.init(num_cpus=ACTORS, log_to_driver=False, include_dashboard=False, runtime_env=hook)
    begun: set[str] = set()
    killer = threading.Thread(target=kill_one, args=(scratch / "ray" / "store" / "plan", begun))
    killer.start()
    actors = build(images, encoder, scratch / "ray", RayPool(actors=ACTORS))
    killer.join()
    ray.shutdown()
    assert content(scratch / "ray") == content(scratch / "alone")
    # This process is a worker of the plan as well.
    found = {"alone": alone.computed, "actors": actors.computed, "begun": len(begun) - 1}
    print(json.dumps(found))


if __name__ == "__main__":
    main(*(Path(argument) for argument in sys.argv[1:]))
