"""What one detector says of known and unknown images, and where it would draw the line.

The line is drawn on closed validation images alone, before any test or open image is scored.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float64, Int, Shaped

from leaknet.data.embeddings import Embeddings
from leaknet.detectors import Detector
from leaknet.evaluation.summary import Weights
from leaknet.metrics import open_set, open_values
from leaknet.metrics.closed_set import correct

ACCEPTED = 0.95
"""Share of closed validation images that the operating threshold accepts."""

LOWER_IS_BETTER = open_set.LOWER_IS_BETTER | {"unknown_accepted"}
POOLED = ""
"""Stands for all unknown generators together, where generators are named."""


@dataclass(frozen=True)
class Detection:
    """One detector of one run; scores are higher the more an image is like the known.

    Attributes:
        known: scores of the test fold.
        unknown: scores of the unknown generators.
        correct: which test images the prototypes attribute right.
        generators: the unknown image's generator.
        known_groups: prompt groups of the test fold.
        unknown_groups: prompt groups of the unknown images.
        threshold: the score that `ACCEPTED` of the validation images reach.
    """

    known: Float64[np.ndarray, "known"]
    unknown: Float64[np.ndarray, "unknown"]
    correct: Bool[np.ndarray, "known"]
    generators: Shaped[np.ndarray, "unknown"]
    known_groups: Shaped[np.ndarray, "known"]
    unknown_groups: Shaped[np.ndarray, "unknown"]
    threshold: float

    @classmethod
    def of(
        cls, detector: Detector, val: Embeddings, test: Embeddings, unknown: Embeddings
    ) -> Detection:
        """Score through one call, whatever the image; the threshold is that of `val` alone."""
        return cls(
            known=detector.score_samples(test),
            unknown=detector.score_samples(unknown),
            correct=correct(test.logits, test.targets),
            generators=unknown.labels,
            known_groups=test.groups,
            unknown_groups=unknown.groups,
            threshold=threshold(detector, val),
        )

    @property
    def names(self) -> list[str]:
        """The unknown generators, sorted."""
        found: list[str] = np.unique(self.generators).tolist()
        return found

    @property
    def sets(self) -> list[Shaped[np.ndarray, "_"]]:
        """Prompt groups of the sets that weights belong to: the known, then each generator."""
        return [self.known_groups, *(self.unknown_groups[self._rows(n)] for n in self.names)]

    def values(
        self, weights: Sequence[Weights] | None
    ) -> dict[str, dict[str, Float64[np.ndarray, "resample"]]]:
        """Metrics of `OpenScores` and of the threshold, for `POOLED` and each generator.

        Args:
            weights: one table for each of `sets`; None counts every image once.
        """
        parts = [self.unknown[self._rows(name)] for name in self.names]
        own, *others = weights or [np.ones((1, len(part))) for part in (self.known, *parts)]
        table = {POOLED: self._row(np.concatenate(parts), own, np.concatenate(others, axis=1))}
        for name, part, weight in zip(self.names, parts, others, strict=True):
            table[name] = self._row(part, own, weight)
        return table

    def _row(
        self, unknown: Float64[np.ndarray, "k"], own: Weights, other: Weights
    ) -> dict[str, Float64[np.ndarray, "resample"]]:
        accepted = {
            "known_accepted": own @ (self.known >= self.threshold) / own.sum(axis=1),
            "unknown_accepted": other @ (unknown >= self.threshold) / other.sum(axis=1),
        }
        return open_values(self.known, unknown, self.correct, own, other) | accepted

    def _rows(self, name: str) -> Int[np.ndarray, "k"]:
        return np.flatnonzero(self.generators == name)


def threshold(detector: Detector, val: Embeddings) -> float:
    """The highest score that at least 95 % of the validation images reach."""
    scores = np.sort(detector.score_samples(val))
    return float(scores[int(np.floor((1 - ACCEPTED) * len(scores)))])
