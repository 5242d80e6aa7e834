"""What every experiment is asked for."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import torch

from leakcache.distributed.ray_pool import RayPool
from leaknet.config import RunConfig
from leaknet.detectors import Detector, GlobalKDE

CPU = torch.device("cpu")


@dataclass(frozen=True, kw_only=True)
class Plan:
    """Options that all experiments share; each adds its own in a subclass.

    Attributes:
        out: folder of the results and runs.
        seeds: trainings of each method on each task, 1 or more.
        kinds: open-set detectors, the reported one first; 1 or more.
        device: where to compute.
        force: leave open images out that are also closed ones, instead of refusing.
        pool: actors that train in place of this process; None for none.
    """

    out: Path
    seeds: int = 1
    kinds: tuple[type[Detector], ...] = (GlobalKDE,)
    device: torch.device = CPU
    force: bool = False
    pool: RayPool | None = None

    @property
    def reported(self) -> str:
        """Name of the detector that figures are given for."""
        return self.kinds[0].name


def seeded(config: RunConfig, seeds: int) -> tuple[RunConfig, ...]:
    """The settings under each seed, counted up from their own."""
    first = config.train.seed
    return tuple(
        replace(config, train=replace(config.train, seed=first + number)) for number in range(seeds)
    )
