"""Trainings of an experiment as items of Ray actors; the tables are then made as in one process.

A training ends with files in a folder of its own, which the experiment takes over instead of
training again. So the table is the same whoever trained.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import torch

from leakcache.errors import CacheBusy, LeakError
from leakcache.processes import RayPool, keep_freed_memory
from leakcache.progress import track

WAITS, WAIT = 240, 5.0
"""How often an actor tries again while others write to the cache, and the seconds between."""


@dataclass(frozen=True)
class Training:
    """One method on one task under one seed.

    Attributes:
        folder: that it fills, on a disk which all actors share.
        run: finishes it on a device.
    """

    folder: Path
    run: Callable[[torch.device], object]


def train_on_actors(pool: RayPool, trainings: Sequence[Training]) -> None:
    """Finish trainings on actors, in any order; a killed one begins again where it had stopped.

    One that fails is left to the experiment, which then fails in the same way and reports it.

    Raises:
        ConfigError: Ray is not installed, or there is no cluster at the address.
        LeakError: actors died over one training again and again.
    """
    distinct = {training.folder: training for training in trainings}
    places = range(len(distinct))
    with track("training", len(distinct), "runs") as advance:
        for _ in pool.map(_Trainer(tuple(distinct.values())), places):
            advance(1)


@dataclass(frozen=True)
class _Trainer:
    trainings: tuple[Training, ...]

    def __call__(self, device: str) -> Callable[[int], bool]:
        keep_freed_memory()

        def train(place: int) -> bool:
            try:
                # Another actor may be deriving the same columns.
                for _ in range(WAITS):
                    with suppress(CacheBusy):
                        self.trainings[place].run(torch.device(device))
                        return True
                    time.sleep(WAIT)
            # torch reports what a model or a machine cannot do as a RuntimeError.
            except (LeakError, RuntimeError, MemoryError):
                pass
            return False

        return train
