"""Naming the generator, over seeds: the metrics of `leaknet.metrics.ClosedScores`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float, Shaped

from leakcache.errors import ScoringError
from leaknet.data.embeddings import Embeddings
from leaknet.detectors import Detector
from leaknet.evaluation.summary import Summary, Values, Weights, over_seeds
from leaknet.metrics import ClosedScores, OpenReport, closed_scores, closed_values, open_report
from leaknet.metrics.bootstrap import OpenIntervals, closed_intervals, open_intervals
from leaknet.metrics.closed_set import correct, per_class_auc

_CLASS = "class"


@dataclass(frozen=True)
class ClosedSummary:
    """One way of naming the generator, on one fold.

    Attributes:
        metrics: top1, balanced, macro_auc, ece.
        classes: one-vs-rest area of each class that the fold holds.
    """

    metrics: dict[str, Summary]
    classes: dict[str, Summary]

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON; `sd` and `interval` repeat the layout of the values."""
        return {
            **self.nested(lambda summary: summary.value),
            "sd": self.nested(lambda summary: summary.sd),
            "interval": self.nested(lambda summary: summary.interval),
        }

    def nested(self, pick: Callable[[Summary], Any]) -> dict[str, Any]:
        """One property of every figure."""
        areas = {name: pick(summary) for name, summary in self.classes.items()}
        return {n: pick(s) for n, s in self.metrics.items()} | {"per_class_auc": areas}


def summarise_closed(
    folds: Sequence[Embeddings], scores: Sequence[Float[np.ndarray, "n class"]]
) -> ClosedSummary:
    """Sum up class scores of one fold.

    Args:
        folds: the fold under each seed; the images are the same.
        scores: the class scores under each seed.

    Raises:
        ScoringError: the fold is empty or of one class, or a score is NaN.
    """
    targets, names = folds[0].targets, folds[0].classes

    def judge(one: Float[np.ndarray, "n class"], weights: Sequence[Weights] | None) -> Values:
        own = None if weights is None else weights[0]
        values: Values = {("", m): v for m, v in closed_values(one, targets, own).items()}
        areas = per_class_auc(one, targets, own)
        return values | {(_CLASS, names[c]): areas[:, c] for c in np.unique(targets).tolist()}

    judges = [lambda weights, one=one: judge(one, weights) for one in scores]
    found = over_seeds(judges, [folds[0].groups])
    return ClosedSummary(
        {name: summary for (group, name), summary in found.items() if group == ""},
        {name: summary for (group, name), summary in found.items() if group == _CLASS},
    )


# Judgements with intervals: class scores on a closed fold, a detector against the unknown.


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
