"""What one method scores on one task, under every seed, and how it differs from another."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Float, Float64

from leaknet.data.embeddings import Embeddings
from leaknet.evaluation.closed_set import ClosedSummary, summarise_closed
from leaknet.evaluation.open_set import Detection, OpenSummary, summarise_open
from leaknet.evaluation.summary import (
    Measure,
    PairedDifference,
    Weights,
    differences_over_seeds,
)
from leaknet.metrics import closed_values, open_values
from leaknet.metrics.bootstrap import sign_flip_p
from leaknet.metrics.closed_set import correct

OPEN = "open_"
"""Prefix of the keys of open-set metrics beside closed-set ones."""


@dataclass(frozen=True)
class Evaluated:
    """Class scores and detector scores, one entry a seed; the images are the same.

    Attributes:
        tests: the test fold.
        scores: class scores of its images.
        detections: known against unknown; empty without an open set.
    """

    tests: tuple[Embeddings, ...]
    scores: tuple[Float[np.ndarray, "n class"], ...]
    detections: tuple[Detection, ...] = ()

    def closed(self) -> ClosedSummary:
        """Closed-set metrics; raises as `summarise_closed`."""
        return summarise_closed(self.tests, self.scores)

    def open(self) -> OpenSummary | None:
        """Open-set metrics; None without an open set."""
        return summarise_open("", [[one] for one in self.detections]) if self.detections else None

    def minus(self, other: Evaluated) -> dict[str, PairedDifference]:
        """Differences by metric, seed by seed on the same images; open-set keys begin with `OPEN`.

        Top-1 is tested by flipping the signs of whole prompt groups, the others by the bootstrap.
        """
        groups = self.tests[0].groups
        found = differences_over_seeds(self._closed(), other._closed(), [groups])
        if self.detections and other.detections:
            sets = [self.detections[0].known_groups, self.detections[0].unknown_groups]
            found |= differences_over_seeds(self._open(), other._open(), sets)
        p = sign_flip_p(self._right() - other._right(), groups)
        return found | {"top1": replace(found["top1"], p=p)}

    def _right(self) -> Float64[np.ndarray, "n"]:
        """Fraction of the seeds that attribute each test image right."""
        pairs = zip(self.scores, self.tests, strict=True)
        right = [correct(scores, test.targets).astype(np.float64) for scores, test in pairs]
        mean: Float64[np.ndarray, "n"] = np.mean(right, axis=0)
        return mean

    def _closed(self) -> list[Measure[str]]:
        def measure(scores: Float[np.ndarray, "n class"], test: Embeddings) -> Measure[str]:
            return lambda w: closed_values(scores, test.targets, None if w is None else w[0])

        return [measure(*pair) for pair in zip(self.scores, self.tests, strict=True)]

    def _open(self) -> list[Measure[str]]:
        def measure(one: Detection) -> Measure[str]:
            def values(weights: Sequence[Weights] | None) -> dict[str, np.ndarray]:
                found = open_values(one.known, one.unknown, one.correct, *(weights or ()))
                return {OPEN + metric: value for metric, value in found.items()}

            return values

        return [measure(one) for one in self.detections]
