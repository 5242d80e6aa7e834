"""Closed-set metrics over seeds: which of the known generators made an image."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from leakcache.errors import ScoringError
from leaknet.data.embeddings import Embeddings
from leaknet.evaluation.summary import (
    Measure,
    Summary,
    Values,
    Weights,
    by_metric,
    layout,
    over_seeds,
    picked,
)
from leaknet.metrics.closed_set import closed_table, confusion

_CLASS = "class"


@dataclass(frozen=True)
class ClosedSummary:
    """Class scores on one fold.

    Attributes:
        metrics: those of `leaknet.metrics.closed_values`.
        per_class_auc: one-vs-rest area of each class that the fold holds.
        confusion: images by true class (row) and class of the highest score, summed over seeds.
        classes: the known generators.
    """

    metrics: dict[str, Summary]
    per_class_auc: dict[str, Summary]
    confusion: Int[np.ndarray, "class class"]
    classes: tuple[str, ...]

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON; `sd` and `interval` repeat the layout of the values."""
        counts = {"confusion": self.confusion.tolist(), "classes": list(self.classes)}
        return layout(self.nested) | counts

    def nested(self, pick: Callable[[Summary], Any]) -> dict[str, Any]:
        """One property of every figure; None for the area of a class that the fold lacks."""
        areas = dict.fromkeys(self.classes) | picked(self.per_class_auc, pick)
        return picked(self.metrics, pick) | {"per_class_auc": areas}


def summarise_closed(
    folds: Sequence[Embeddings], scores: Sequence[Float[np.ndarray, "n class"]] | None = None
) -> ClosedSummary:
    """Summarise class scores of one fold over seeds.

    Args:
        folds: the fold under each seed; the images are the same.
        scores: the class scores under each seed; None for the logits.

    Raises:
        ScoringError: the fold is empty or of one class, or a score is NaN.
    """
    if not len(folds[0]):
        raise ScoringError("a closed fold holds no images; see `leak data index` for the folds")
    scores = [fold.logits for fold in folds] if scores is None else scores
    targets, names = folds[0].targets, folds[0].classes
    present = np.unique(targets).tolist()

    def measure(one: Float[np.ndarray, "n class"]) -> Measure[tuple[str, str]]:
        def values(weights: Sequence[Weights] | None) -> Values:
            table, areas = closed_table(one, targets, None if weights is None else weights[0])
            own = {(_CLASS, names[c]): areas[:, c] for c in present}
            return {("", metric): value for metric, value in table.items()} | own

        return values

    found = over_seeds([measure(one) for one in scores], [folds[0].groups])
    return ClosedSummary(
        by_metric(found),
        by_metric(found, _CLASS),
        np.sum([confusion(one, targets) for one in scores], axis=0),
        names,
    )
