"""A detector against unknown generators, over seeds and, where some are left out, over folds.

One fold is one training: closed generators against those of other caches. Leaving generators
out gives several folds, each with its own known and unknown, and a generator's figure is its
mean over the folds in which it was unknown.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from leakcache.errors import ScoringError
from leaknet.evaluation.fold_evaluation_detection import LOWER_IS_BETTER, POOLED, Detection
from leaknet.evaluation.summary import Summary, Values, Weights, over_seeds

Metrics = dict[str, Summary]
RESERVED = frozenset(
    {"detector", "mean", "worst", "worst_generator", "sd", "interval", "folds", "closed"}
)


@dataclass(frozen=True)
class OpenSummary:
    """Every metric of `leaknet.metrics.OpenScores`, and the rates at the validation threshold.

    Attributes:
        detector: its name.
        pooled: all unknown images together; with several folds, the mean of that over folds.
        mean: unweighted mean over the generators.
        generators: by unknown generator.
        folds: `pooled` of each fold, in order.
    """

    detector: str
    pooled: Metrics
    mean: Metrics
    generators: dict[str, Metrics]
    folds: tuple[Metrics, ...]

    @property
    def worst(self) -> Metrics:
        """For each metric, the generator whose mean over seeds is worst by it."""
        return {name: self.generators[self.worst_by(name)][name] for name in self.pooled}

    def worst_by(self, metric: str) -> str:
        """The generator that is worst by one metric."""
        sign = -1 if metric in LOWER_IS_BETTER else 1
        return min(self.generators, key=lambda name: sign * self.generators[name][metric].value)

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON; `sd` and `interval` repeat the layout of the values."""
        return {
            "detector": self.detector,
            **self.nested(lambda summary: summary.value),
            "worst_generator": self.worst_by("auroc"),
            "sd": self.nested(lambda summary: summary.sd),
            "interval": self.nested(lambda summary: summary.interval),
        }

    def nested(self, pick: Callable[[Summary], Any]) -> dict[str, Any]:
        """One property of every figure: pooled ones on top, then mean, worst, generators."""
        groups = {"mean": self.mean, "worst": self.worst, **self.generators}
        return _picked(self.pooled, pick) | {n: _picked(g, pick) for n, g in groups.items()}


def summarise_open(detector: str, trials: Sequence[Sequence[Detection]]) -> OpenSummary:
    """Sum up one detector.

    Args:
        detector: its name.
        trials: for each seed, one detection a fold; the images of a fold are the same under
            every seed.

    Raises:
        ScoringError: a set is empty, a score is NaN, or a generator's name is taken.
    """
    folds = trials[0]
    names = sorted({name for fold in folds for name in fold.names})
    if taken := sorted(RESERVED.intersection(names)):
        raise ScoringError(f"a generator cannot be called {taken[0]!r}: rename its folder")
    judges = [lambda weights, one=one: _table(one, names, weights) for one in trials]
    found = over_seeds(judges, [group for fold in folds for group in fold.sets])

    def group(name: str) -> Metrics:
        return {metric: summary for (whom, metric), summary in found.items() if whom == name}

    return OpenSummary(
        detector=detector,
        pooled=group(POOLED),
        mean=group("mean"),
        generators={name: group(name) for name in names},
        folds=tuple(group(_fold(number)) for number in range(len(folds))),
    )


def _table(
    folds: Sequence[Detection], names: Sequence[str], weights: Sequence[Weights] | None
) -> Values:
    """All figures of one seed: each fold, each generator, their means."""
    parts = [None] * len(folds) if weights is None else _shares(folds, weights)
    tables = [fold.values(part) for fold, part in zip(folds, parts, strict=True)]
    values: Values = {}
    for metric in tables[0][POOLED]:
        each = {n: np.mean([t[n][metric] for t in tables if n in t], axis=0) for n in names}
        values |= {(name, metric): row for name, row in each.items()}
        values[("mean", metric)] = np.mean(list(each.values()), axis=0)
        values[(POOLED, metric)] = np.mean([t[POOLED][metric] for t in tables], axis=0)
        values |= {(_fold(i), metric): t[POOLED][metric] for i, t in enumerate(tables)}
    return values


def _shares(folds: Sequence[Detection], weights: Sequence[Weights]) -> list[list[Weights]]:
    """The weights that belong to each fold."""
    left = list(weights)
    return [[left.pop(0) for _ in fold.sets] for fold in folds]


def _fold(number: int) -> str:
    return f"\0fold {number}"  # no folder, hence no generator, has this name


def _picked(metrics: Metrics, pick: Callable[[Summary], Any]) -> dict[str, Any]:
    return {name: pick(summary) for name, summary in metrics.items()}
