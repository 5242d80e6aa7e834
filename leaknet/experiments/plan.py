"""What an evaluation is asked to do."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import torch

from leakcache.errors import ConfigError
from leaknet.baselines import BASELINES
from leaknet.baselines.base import Baseline
from leaknet.config import RunConfig
from leaknet.detectors import Detector, GlobalKDE


@dataclass(frozen=True)
class Plan:
    """Protocols, seeds and detectors.

    Attributes:
        config: settings of every run; its seed is the first one.
        seeds: how many, counted up from there; 1 or more.
        kinds: detectors for the unknown, the reported one first; 1 or more.
        leave_out: how many generators to leave out at once; 0 for none.
        real: known classes that are photographs.
        modes: also reproduce the attention modes of Table 2.
        shuffle: also train on shuffled labels.
        alpha: false-alarm rate at which answers are measured, in (0, 1).
        force: leave open images out that are also closed ones, instead of refusing.
    """

    config: RunConfig
    seeds: int
    kinds: tuple[type[Detector], ...]
    leave_out: int = 0
    real: tuple[str, ...] = ()
    modes: bool = False
    shuffle: bool = False
    alpha: float = 0.05
    force: bool = False

    @property
    def configs(self) -> list[RunConfig]:
        """Settings under each seed."""
        first = self.config.train.seed
        return [
            replace(self.config, train=replace(self.config.train, seed=first + number))
            for number in range(self.seeds)
        ]

    @property
    def reported(self) -> str:
        """The detector that figures are given for."""
        return self.kinds[0].name


# What a bench is asked to do.

CPU = torch.device("cpu")


@dataclass(frozen=True)
class BenchPlan:
    """Methods, seeds and what all of them share.

    Attributes:
        methods: in the order of the rows.
        seeds: how many trainings a method, with seeds 0, 1, ...
        epochs: of every method; None for each method's own number.
        weights: folder of local weights; None for the hub.
        detector: tells known from unknown, for all methods.
        device: where to compute.
        precision: of networks that are trained, "fp32" or "bf16" under autocast.
    """

    methods: tuple[type[Baseline], ...]
    seeds: int = 1
    epochs: int | None = None
    weights: Path | None = None
    detector: type[Detector] = GlobalKDE
    device: torch.device = CPU
    precision: str = "fp32"


def methods_named(names: str) -> tuple[type[Baseline], ...]:
    """The methods of a comma-separated list; `all` for every one.

    Raises:
        ConfigError: a name is not among them, or there is none.
    """
    known = {method.name: method for method in BASELINES}
    wanted = [name.strip() for name in names.split(",") if name.strip()]
    if "all" in wanted:
        return BASELINES
    unknown = [name for name in wanted if name not in known]
    if unknown or not wanted:
        raise ConfigError(
            f"--methods {unknown[0] if unknown else names!r}: take some of {', '.join(known)}, "
            "or all"
        )
    return tuple(known[name] for name in dict.fromkeys(wanted))
