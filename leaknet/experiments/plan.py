"""What an evaluation is asked to do."""

from __future__ import annotations

from dataclasses import dataclass, replace

from leaknet.config import RunConfig
from leaknet.detectors import Detector


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
