"""Naming the generator, over seeds: the metrics of `leaknet.metrics.ClosedScores`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float

from leaknet.data.embeddings import Embeddings
from leaknet.evaluation.summary import Summary, Values, Weights, over_seeds
from leaknet.metrics import closed_values
from leaknet.metrics.closed_set import per_class_auc

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
