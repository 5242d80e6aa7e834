"""What a bench is asked to do."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch

from leakcache.errors import ConfigError
from leaknet.baselines import PEERS
from leaknet.baselines.base import Peer
from leaknet.detectors import Detector, GlobalKDE

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

    methods: tuple[type[Peer], ...]
    seeds: int = 1
    epochs: int | None = None
    weights: Path | None = None
    detector: type[Detector] = GlobalKDE
    device: torch.device = CPU
    precision: str = "fp32"


def methods_named(names: str) -> tuple[type[Peer], ...]:
    """The methods of a comma-separated list; `all` for every one.

    Raises:
        ConfigError: a name is not among them, or there is none.
    """
    known = {method.name: method for method in PEERS}
    wanted = [name.strip() for name in names.split(",") if name.strip()]
    if "all" in wanted:
        return PEERS
    unknown = [name for name in wanted if name not in known]
    if unknown or not wanted:
        raise ConfigError(
            f"--methods {unknown[0] if unknown else names!r}: take some of {', '.join(known)}, "
            "or all"
        )
    return tuple(known[name] for name in dict.fromkeys(wanted))
