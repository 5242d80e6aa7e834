"""How a row is scored, once its runs are there."""

from __future__ import annotations

from dataclasses import dataclass

from leakcache.errors import ConfigError
from leaknet.detectors import Detector, GlobalKDE
from leaknet.experiments.attention_modes import MODES
from leaknet.scoring.fitted_detectors import detectors_named

NAMINGS = ("prototype", "mahalanobis")


@dataclass(frozen=True)
class Scoring:
    """What follows the embeddings; rows that differ in nothing else share their runs.

    Attributes:
        naming: what names the generator: "prototype", the network's own logits, whichever
            head it has, or "mahalanobis".
        detector: for the unknown, by its name.
        attention: one of the attention modes of Table 2, judged by KDE beside its control;
            empty for an ordinary row.
    """

    naming: str = "prototype"
    detector: str = GlobalKDE.name
    attention: str = ""

    def __post_init__(self) -> None:
        _require_one_of("score.naming", self.naming, NAMINGS)
        _require_one_of("score.attention", self.attention, ("", *MODES))
        if self.attention and self.detector != GlobalKDE.name:
            raise ConfigError("score.detector: the attention modes are judged by kde alone")

    @property
    def kind(self) -> type[Detector]:
        """The detector.

        Raises:
            ScoringError: there is none of that name.
        """
        return detectors_named([self.detector])[0]


def _require_one_of(key: str, value: str, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        names = ", ".join(repr(name) for name in allowed)
        raise ConfigError(f"{key} = {value!r} is out of range: it must be one of {names}")
