"""A pool of Ray actors that compute items of a list; needs the extra `ray`."""

from __future__ import annotations

import importlib
from collections import Counter, deque
from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from leakcache.errors import ConfigError, LeakError

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
