"""Processes: the memory that one keeps, its number among others, and pools of Ray actors."""

from __future__ import annotations

import ctypes
import importlib
import os
import sys
from collections import Counter, deque
from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from leakcache.errors import ConfigError, LeakError

# From glibc's malloc.h.
_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_THRESHOLD = -1, -2, -3


def keep_freed_memory() -> bool:
    """Let the allocator of this process serve large blocks from memory that it keeps.

    glibc else maps and unmaps tens of megabytes a convolution, and the kernel zeroes their pages
    each time: on a CPU up to half of an encoder's time (docs/PERFORMANCE.md).

    Returns:
        Whether the allocator is glibc's and took the setting; elsewhere nothing happens.
    """
    mallopt = _of_glibc("mallopt")
    if mallopt is None:
        return False
    settings = ((_M_MMAP_THRESHOLD, 1 << 30), (_M_TRIM_THRESHOLD, 2**31 - 1), (_M_TOP_PAD, 1 << 26))
    return all(mallopt(name, value) == 1 for name, value in settings)


def release_freed_memory() -> None:
    """Give what is kept back to the system, where the allocator is glibc's.

    Each thread keeps memory of its own, so that after large images all would keep one.
    """
    trim = _of_glibc("malloc_trim")
    if trim is not None:
        trim(0)


def _of_glibc(name: str) -> Any:
    """A function of the C library; None where it has none of that name."""
    if not sys.platform.startswith("linux"):
        return None
    return getattr(ctypes.CDLL(None), name, None)


_limit: int | None = None


def memory_limit() -> int:
    """Bytes that arrays of images may take together."""
    return _machine_memory() // 2 if _limit is None else _limit


def set_memory_limit(size: int | None) -> None:
    """Bound them; by half of the machine's memory without a size."""
    global _limit  # noqa: PLW0603  # a limit of the process
    _limit = size


def _machine_memory() -> int:
    """Bytes of the machine, or of the control group that the process is in."""
    physical = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    for file in ("memory.max", "memory/memory.limit_in_bytes"):
        with suppress(OSError, ValueError):
            return min(physical, int(Path("/sys/fs/cgroup", file).read_text()))
    return physical


_LAUNCHERS = (("RANK", "WORLD_SIZE"), ("SLURM_PROCID", "SLURM_NTASKS"))
_LOCAL = ("LOCAL_RANK", "SLURM_LOCALID")


def parse_worker(text: str) -> tuple[int, int]:
    """Number of this process and how many there are.

    Args:
        text: `K/N` with K from 0, or `auto` for what torchrun or SLURM has set.

    Raises:
        ConfigError: it is neither, or no launcher has set the variables.
    """
    if text == "auto":
        set_by = (names for names in _LAUNCHERS if all(name in os.environ for name in names))
        text = "/".join(os.environ[name] for name in next(set_by, ()))
        if not text:
            raise ConfigError(
                "--worker auto: neither RANK and WORLD_SIZE (torchrun) nor SLURM_PROCID and "
                "SLURM_NTASKS are set; give K/N"
            )
    number, _, of = text.partition("/")
    if not (number.isdecimal() and of.isdecimal() and int(number) < int(of)):
        raise ConfigError(f"--worker {text}: takes K/N with K from 0 to N - 1, or auto")
    return int(number), int(of)


def local_rank() -> int:
    """Number of this process on its host, by torchrun or SLURM; 0 where neither started it."""
    found = (os.environ.get(name, "") for name in _LOCAL)
    return next((int(text) for text in found if text.isdecimal()), 0)


IN_FLIGHT = 2
"""Items that an actor has at most: the one it computes, and the next."""
ATTEMPTS = 3
"""Actors that may die over one item before it counts as the cause."""

Item = TypeVar("Item", bound=Hashable)
Result = TypeVar("Result")


@dataclass(frozen=True)
class RayPool:
    """How many actors, and where.

    Attributes:
        address: of a running cluster; None for one on this machine, which ends with this process.
        actors: number of actors; None for one a GPU of the cluster, or one a CPU without any.
    """

    address: str | None = None
    actors: int | None = None

    def map(
        self, make: Callable[[str], Callable[[Item], Result]], items: Sequence[Item]
    ) -> Iterator[tuple[Item, Result]]:
        """Compute all items, in the order in which they become ready.

        An actor that dies is replaced, and only the items that it had are computed again.

        Args:
            make: called in each actor with its device, "cpu" or "cuda"; gives the function of an
                item.
            items: distinct; each actor has at most `IN_FLIGHT` of them.

        Raises:
            ConfigError: Ray is not installed, or there is no cluster at the address.
            LeakError: one that an item raised, or actors that died over it again and again.
        """
        ray = self._connect()
        actor = _actor_class(ray)
        devices = self._devices(ray, len(items))
        handle = ray.put(make)

        def start(device: str) -> Any:
            resources = {"num_gpus": 1} if device == "cuda" else {"num_cpus": 1}
            return actor.options(**resources).remote(handle, device)

        todo, deaths = deque(items), Counter[Item]()
        running: dict[Any, tuple[Any, str, Item]] = {}

        def give(worker: Any, device: str) -> None:
            held = sum(owner is worker for owner, _, _ in running.values())
            while todo and held < IN_FLIGHT:
                item = todo.popleft()
                running[worker.compute.remote(item)] = (worker, device, item)
                held += 1

        for device in devices:
            give(start(device), device)
        while running:
            (ready,), _ = ray.wait(list(running), num_returns=1)
            worker, device, item = running.pop(ready)
            try:
                yield item, ray.get(ready)
            except ray.exceptions.RayActorError as error:
                deaths[item] += 1
                if deaths[item] == ATTEMPTS:
                    raise LeakError(
                        f"unit {item}: {ATTEMPTS} actors died over it, one after another; Ray's "
                        "logs say why (a full memory, for example)"
                    ) from error
                lost = [ref for ref, (owner, _, _) in running.items() if owner is worker]
                todo.extendleft([item, *(running.pop(ref)[2] for ref in lost)])
                worker = start(device)
            except ray.exceptions.RayTaskError as error:
                raise (error.cause if isinstance(error.cause, LeakError) else error) from None
            give(worker, device)

    def _connect(self) -> Any:
        try:
            ray = importlib.import_module("ray")
        except ImportError as error:
            raise ConfigError('--engine ray needs Ray: pip install "leaknet[ray]"') from error
        if not ray.is_initialized():
            try:
                ray.init(address=self.address, log_to_driver=False, include_dashboard=False)
            except (ConnectionError, ValueError) as error:
                raise ConfigError(f"--address {self.address}: no Ray cluster ({error})") from error
        return ray

    def _devices(self, ray: Any, items: int) -> list[str]:
        """Of each actor: GPUs first, then CPUs."""
        resources = ray.cluster_resources()
        gpus, cpus = int(resources.get("GPU", 0)), int(resources.get("CPU", 1))
        count = min(self.actors or gpus or cpus, items)
        return ["cuda"] * min(gpus, count) + ["cpu"] * (count - gpus)


def _actor_class(ray: Any) -> Any:
    class Actor:
        """One process, which makes its function once."""

        def __init__(self, make: Callable[[str], Callable[[Any], Any]], device: str) -> None:
            self._function = make(device)

        def compute(self, item: Any) -> Any:
            """The function of one item."""
            return self._function(item)

    return ray.remote(Actor)
