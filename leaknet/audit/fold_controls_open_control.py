"""Could the unknown generators be told from the known ones without looking at any leak?

A classifier is trained to tell closed images from open ones, which no honest detector may do:
what it achieves is how far an open-set figure can be owed to size, format or subject alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from jaxtyping import Float, Float64, Shaped

from leakcache.errors import ScoringError
from leaknet.audit.cross_validation import TREES, TREES_OF_ONE_FACT, Protocol, log_probabilities
from leaknet.audit.fact_table import FactTable
from leaknet.audit.observations import Observations
from leaknet.metrics.bootstrap import Interval, cluster_weights
from leaknet.metrics.open_set import auroc
from leaknet.metrics.roc import roc

RESAMPLES = 500


@dataclass(frozen=True)
class OpenControl:
    """AUROC of known against unknown images, with 95 % intervals clustered by prompt group.

    Attributes:
        auroc: all unknown images together.
        generators: each unknown generator.
        images: of known and unknown generators, both judged.
        protocol: in words.
        facts: for file facts, the AUROC of each alone, best first.
    """

    auroc: Interval
    generators: Mapping[str, Interval]
    images: tuple[int, int]
    protocol: str
    facts: Mapping[str, float]

    @property
    def beyond_chance(self) -> bool:
        """Whether the AUROC is above chance, for the prompts and for the images drawn."""
        known, unknown = self.images
        deviation = ((known + unknown + 1) / (12 * known * unknown)) ** 0.5
        return self.auroc.low > 0.5 and self.auroc.value > 0.5 + 3 * deviation

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {
            **_plain(self.auroc),
            "generators": {name: _plain(value) for name, value in self.generators.items()},
            "images": {"known": self.images[0], "unknown": self.images[1]},
            "protocol": self.protocol,
            "facts": dict(self.facts),
        }


class OpenJudge:
    """Judges several kinds of evidence on the same closed and open images."""

    def __init__(self, seen: Observations, protocol: Protocol) -> None:
        self._targets = (~seen.unknown).astype(np.int64)
        self._protocol = protocol
        judged = protocol.judged
        self._known = self._targets[judged] == 1
        self._groups = seen.groups[judged]
        self._labels = seen.labels[judged]

    def judge(self, features: Float[np.ndarray, "image column"]) -> OpenControl:
        """All columns together."""
        scores = self._scores(features)
        known, unknown = scores[self._known], scores[~self._known]
        own, theirs = self._groups[self._known], self._groups[~self._known]
        labels = self._labels[~self._known]
        return OpenControl(
            auroc=_interval(known, unknown, own, theirs),
            generators={
                str(name): _interval(known, unknown[labels == name], own, theirs[labels == name])
                for name in np.unique(labels)
            },
            images=(len(known), len(unknown)),
            protocol=self._protocol.words,
            facts={},
        )

    def judge_facts(self, table: FactTable) -> OpenControl:
        """All facts together, and each by itself."""
        alone = table.each(self._alone)
        best = dict(sorted(alone.items(), key=lambda item: -round(item[1], 3)))
        return replace(self.judge(table.matrix), facts=best)

    def _alone(self, features: Float[np.ndarray, "image column"]) -> float:
        scores = self._scores(features, TREES_OF_ONE_FACT)
        return auroc(scores[self._known], scores[~self._known])

    def _scores(
        self, features: Float[np.ndarray, "image column"], trees: int = TREES
    ) -> Float64[np.ndarray, "judged"]:
        logs = log_probabilities(features, self._targets, 2, self._protocol, trees)
        known: Float64[np.ndarray, "judged"] = logs[:, 1]
        return known


def _interval(
    known: Float64[np.ndarray, "known"],
    unknown: Float64[np.ndarray, "unknown"],
    known_groups: Shaped[np.ndarray, "known"],
    unknown_groups: Shaped[np.ndarray, "unknown"],
) -> Interval:
    value = auroc(known, unknown)
    try:
        draws = cluster_weights([known_groups, unknown_groups], resamples=RESAMPLES)
        sample = [roc(known, unknown, own, theirs).auroc() for own, theirs in draws]
    except ScoringError:
        # A single prompt group says nothing about other prompts: anything is possible.
        return Interval(value, 0.0, 1.0)
    return Interval.of(value, np.concatenate(sample))


def _plain(interval: Interval) -> dict[str, Any]:
    return {"auroc": interval.value, "interval": [interval.low, interval.high]}
