"""Measure builds by 1, 2 and 4 workers, and compare them with a simulation of the schedule.

    python tests/benchmarks/schedule.py IMAGES VAE SCRATCH [COUNT]

Workers are forks of one process, so that the import of torch does not count. Prints JSON: for each
number of workers the seconds of the build, those that the simulation gives with the measured times
of its units, the mean and the largest of these times, the CPU seconds of the workers, and those of
other processes meanwhile (Linux).
"""

from __future__ import annotations

import heapq
import json
import os
import random
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

UNIT = 4
"""Images of a unit in the measurement: 32 by default would give too few units."""


def simulate(
    times: Sequence[float],
    speeds: Sequence[float],
    deaths: Mapping[int, float] | None = None,
    expiry: float = 90.0,
) -> float:
    """Seconds until all units are stored.

    Args:
        times: seconds of each unit at speed 1, in the order in which they are claimed.
        speeds: of each worker.
        deaths: by the number of a worker the time at which it dies.
        expiry: seconds after which others take the unit that it had.
    """
    deaths = deaths or {}
    free = [(0.0, worker) for worker in range(len(speeds))]
    todo = [(0.0, place) for place in range(len(times))]  # when it can be claimed
    heapq.heapify(todo)
    end = 0.0
    while todo:
        if not free:
            raise ValueError("all workers are dead")
        now, worker = heapq.heappop(free)
        since, place = heapq.heappop(todo)
        begin = max(now, since)
        done = begin + times[place] / speeds[worker]
        death = deaths.get(worker, float("inf"))
        if done < death:
            heapq.heappush(free, (done, worker))
            end = max(end, done)
        else:  # where it had died before, nobody waits for its claim
            heapq.heappush(todo, (max(death, begin) + expiry if begin < death else since, place))
    return end


def simulate_without_claims(
    times: Sequence[float],
    speeds: Sequence[float],
    deaths: Mapping[int, float] | None = None,
    seen: float = 5.0,
) -> tuple[float, int]:
    """As `simulate`, of workers that share an object store; also how many units were computed.

    Args:
        times: as for `simulate`.
        speeds: of each worker.
        deaths: by the number of a worker the time at which it dies.
        seen: seconds after which a worker knows that another has stored a unit.
    """
    deaths, units, of = deaths or {}, range(len(times)), len(speeds)
    stored, computed = [float("inf")] * len(times), 0
    orders = []
    for worker in range(of):
        own = range(worker * len(units) // of, (worker + 1) * len(units) // of)
        others = [place for place in units if place not in own]
        random.Random(worker).shuffle(others)
        orders.append(iter([*own, *others]))
    free = [(0.0, worker) for worker in range(of)]
    while free:
        now, worker = heapq.heappop(free)
        place = next((p for p in orders[worker] if stored[p] > now - seen), None)
        if place is None:
            continue
        done = now + times[place] / speeds[worker]
        if done < deaths.get(worker, float("inf")):
            computed += 1
            stored[place] = min(stored[place], done)
            heapq.heappush(free, (done, worker))
    return max(stored), computed


def measure(images: Path, vae: str, scratch: Path, count: int) -> dict[str, Any]:
    """Build the cache by several numbers of workers; see the module."""
    from leakcache.dataset.index import read_index
    from leakcache.encoder.autoencoder import Encoder
    from leakcache.processes import keep_freed_memory
    from leakcache.store.zarr_column import ColumnSpec

    keep_freed_memory()
    ColumnSpec.per_shard = UNIT  # type: ignore[assignment, method-assign]
    index = read_index(images).select("closed")
    step = len(index.records) // count
    index = replace(index, records=index.records[:: max(1, step)][:count])
    encoder = Encoder.load(vae)
    found = {}
    for workers in (1, 2, 4):
        home, start, busy = scratch / str(workers), time.time(), _busy()
        children = [_start(index, encoder, home, n, workers) for n in range(workers)]
        ends = [os.wait4(child, 0) for child in children]
        assert all(status == 0 for _, status, _ in ends)
        seconds, cpu = time.time() - start, sum(u.ru_utime + u.ru_stime for _, _, u in ends)
        times = [t for n in range(workers) for t in json.loads((home / f"times{n}").read_text())]
        found[workers] = {
            "seconds": seconds,
            "simulated": simulate(times, [1.0] * workers),
            "units": len(times),
            "mean": sum(times) / len(times),
            "largest": max(times),
            "cpu": cpu,
            "cpu_of_others": _busy() - busy - cpu,
        }
    return found


def _busy() -> float:
    """CPU seconds that all processes of this machine have taken."""
    words = Path("/proc/stat").read_text(encoding="utf-8").split()[1:9]
    user, nice, system, _, _, irq, soft, _ = map(int, words)
    return (user + nice + system + irq + soft) / os.sysconf("SC_CLK_TCK")


def _start(index: Any, encoder: Any, home: Path, number: int, of: int) -> int:
    child = os.fork()
    if child == 0:
        _build(index, encoder, home, number, of)
        os._exit(0)
    return child


def _build(index: Any, encoder: Any, home: Path, number: int, of: int) -> None:
    """Build as one worker, and write how long each of its units took."""
    from leakcache.store.build import build_cache
    from leakcache.store.build_plan import BuildPlan

    ends = [time.monotonic()]
    plain = BuildPlan.record

    def record(*given: Any) -> None:
        plain(*given)
        ends.append(time.monotonic())

    BuildPlan.record = record  # type: ignore[method-assign]
    build_cache(index, encoder, home / "closed", worker=(number, of), advance=lambda images: None)
    times = [after - before for before, after in pairwise(ends)]
    (home / f"times{number}").write_text(json.dumps(times))


if __name__ == "__main__":
    import torch

    torch.set_num_threads(1)  # before any parallel region: threads do not survive a fork
    counts = [int(word) for word in sys.argv[4:]] or [60]
    print(json.dumps(measure(Path(sys.argv[1]), sys.argv[2], Path(sys.argv[3]), *counts), indent=1))
