"""What is said of one image, as plain data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, is_dataclass
from typing import Any

import numpy as np
from jaxtyping import UInt8

from leaknet.explain.contributions import Contributions
from leaknet.explain.latent_map import LatentMap
from leaknet.explain.patterns import Pattern
from leaknet.explain.position import Position
from leaknet.explain.prototypes import Prototypes
from leaknet.explain.tiles import Box
from leaknet.scoring.answers import Answer

AGREES = 0.5
"""Rank correlation with maps of shuffled weights from which a map says little of the model."""


@dataclass(frozen=True)
class Checks:
    """Two tests of a map.

    Attributes:
        agreement: median |rank correlation| with maps of shuffled weights; None where it cannot
            be computed.
        drop: of the margin where the most important quarter of the map is removed.
        chance: mean drop where as much is removed at random.
    """

    agreement: float | None
    drop: float
    chance: float

    @property
    def depends_on_weights(self) -> bool:
        """Whether shuffled weights give another map."""
        return self.agreement is not None and self.agreement < AGREES

    @property
    def finds_evidence(self) -> bool:
        """Whether removing what the map calls important costs more than removing at random."""
        return self.drop > max(self.chance, 0.0)


@dataclass(frozen=True)
class StatisticsEvidence:
    """Why the statistics branch prefers the first class to the second.

    Attributes:
        contributions: exact terms of the margin of class scores.
        boxes: tiles of the view, in pixels.
        tiles: the margin that each tile has by itself.
        patterns: the strongest pattern of patches, then of frequencies.
        checks: of the map of tiles.
        prototypes: of the branch; None with a linear head.
        view: the pixels that statistics are measured on.
    """

    contributions: Contributions
    boxes: tuple[Box, ...]
    tiles: tuple[float, ...]
    patterns: tuple[Pattern, ...]
    checks: Checks
    prototypes: Prototypes | None
    view: UInt8[np.ndarray, "height width 3"]


@dataclass(frozen=True)
class LatentEvidence:
    """Why the branch of noisy latents prefers the first class to the second.

    Attributes:
        steps: noise steps t.
        attention: a_t, the weight of each step.
        map: integrated gradients of the margin on the clean latent.
        checks: of that map.
        prototypes: of the branch; None with a linear head.
        views: the pixels that latents are encoded from.
    """

    steps: tuple[int, ...]
    attention: tuple[float, ...]
    map: LatentMap
    checks: Checks
    prototypes: Prototypes | None
    views: UInt8[np.ndarray, "view size size 3"]


@dataclass(frozen=True)
class Explanation:
    """Why a run answers as it does for one image.

    Attributes:
        path: the file.
        fold: "train", "val" or "test" where the run knows the very file; empty for other images.
        score: the answer, with all scores.
        first: the likeliest known generator.
        second: the next one.
        margin: logit of `first` less that of `second`, over all branches.
        weights: of the branches in that margin.
        position: where the image lies among the known ones.
        statistics: evidence of the statistics branch; None for a run without it, or where it has
            weight 0 or no score for one of the two.
        latents: evidence of the branch of noisy latents; None for a run without it, or with
            weight 0.
    """

    path: str
    fold: str
    score: Answer
    first: str
    second: str
    margin: float
    weights: Mapping[str, float]
    position: Position
    statistics: StatisticsEvidence | None
    latents: LatentEvidence | None

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON, without pixels and thumbnails."""
        found: dict[str, Any] = _plain(self)
        return found


_OMITTED = {"view", "views", "image", "points", "labels", "known"}
_COMPUTED = {Contributions: ("by_group", "by_family", "by_part"), LatentMap: ("gap",)}
_CHECKS = ("depends_on_weights", "finds_evidence")


def _plain(value: Any) -> Any:
    if isinstance(value, Answer):
        return value.as_dict()
    if is_dataclass(value) and not isinstance(value, type):
        names = [field.name for field in fields(value) if field.name not in _OMITTED]
        names += _COMPUTED.get(type(value), ())
        names += _CHECKS if isinstance(value, Checks) else ()
        return {name: _plain(getattr(value, name)) for name in names}
    if isinstance(value, np.ndarray):
        return value.tolist()
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, tuple | list):
        return [_plain(item) for item in value]
    return value
