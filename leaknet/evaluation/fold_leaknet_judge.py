"""Judgements with intervals: class scores on a closed fold, a detector against the unknown."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float, Shaped

from leakcache.errors import ScoringError
from leaknet.data.embeddings import Embeddings
from leaknet.detectors import Detector
from leaknet.metrics import ClosedScores, OpenReport, closed_scores, open_report
from leaknet.metrics.bootstrap import OpenIntervals, closed_intervals, open_intervals
from leaknet.metrics.closed_set import correct


@dataclass(frozen=True)
class ClosedResult:
    """One way of naming the generator, on one fold.

    Attributes:
        scores: the metrics.
        intervals: [low, high] by metric; empty where the fold has a single prompt group.
    """

    scores: ClosedScores
    intervals: dict[str, list[float]]

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {**self.scores.as_dict(), "interval": self.intervals}


@dataclass(frozen=True)
class OpenResult:
    """One detector against the unknown generators.

    Attributes:
        detector: its name.
        report: the metrics.
        intervals: the same with their ends; None where a set has a single prompt group.
    """

    detector: str
    report: OpenReport
    intervals: OpenIntervals | None

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON: metrics at the top, `interval` beside them."""
        intervals = self.intervals.as_dict() if self.intervals else {}
        return {"detector": self.detector, **self.report.as_dict(), "interval": intervals}


def judge_closed(scores: Float[np.ndarray, "n class"], fold: Embeddings) -> ClosedResult:
    """Metrics of class scores on one closed fold, with intervals clustered by prompt group.

    Raises:
        ScoringError: the fold is empty, or a score is NaN.
    """
    if len(fold) == 0:
        raise ScoringError("a closed fold holds no images; see `leak data index` for the folds")
    intervals = {}
    if _several(fold.groups):
        found = closed_intervals(scores, fold.targets, fold.groups)
        intervals = {name: [item.low, item.high] for name, item in found.items()}
    return ClosedResult(closed_scores(scores, fold.targets, fold.classes), intervals)


def judge_open(detector: Detector, known: Embeddings, unknown: Embeddings) -> OpenResult:
    """Held-out known images against unknown ones, through the same scoring call.

    Raises:
        ScoringError: a set is empty, or a score is NaN.
    """
    inside, outside = detector.score_samples(known), detector.score_samples(unknown)
    right = correct(known.logits, known.targets)
    names = unknown.labels
    intervals = None
    sets = [known.groups, *(unknown.groups[names == name] for name in np.unique(names))]
    if all(_several(groups) for groups in sets):
        intervals = open_intervals(inside, outside, right, names, known.groups, unknown.groups)
    return OpenResult(detector.name, open_report(inside, outside, right, names), intervals)


def concatenate(parts: Sequence[Embeddings]) -> Embeddings:
    """Embeddings of several folds or caches, of one model, as one table."""
    names = ("vectors", "logits", "attention", "labels", "groups", "folds", "hashes", "paths")
    columns = {name: np.concatenate([getattr(part, name) for part in parts]) for name in names}
    first = parts[0]
    return Embeddings(**columns, classes=first.classes, run=first.run, seed=first.seed)


def _several(groups: Shaped[np.ndarray, "n"]) -> bool:
    return len(set(groups.tolist())) > 1
