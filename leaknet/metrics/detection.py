"""Open-set metrics of a detector, over seeds and, where generators are left out, over folds.

One fold is one training: closed generators against those of other caches. Leaving generators
out gives several folds, each with its own known and unknown; a generator's figure is its mean
over the folds in which it was unknown.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Float64, Int, Shaped

from leakcache.errors import ScoringError
from leaknet.data.embeddings import Embeddings
from leaknet.detectors import Detector
from leaknet.metrics import closed_values, open_values
from leaknet.metrics.summary import (
    ClosedSummary,
    Measure,
    PairedDifference,
    Summary,
    Values,
    Weights,
    by_metric,
    differences_over_seeds,
    layout,
    over_seeds,
    picked,
    sign_flip_p,
    summarise_closed,
)
from leaknet.metrics.values import LOWER_IS_BETTER as LOWER
from leaknet.metrics.values import correct

ACCEPTED = 0.95
"""Fraction of the closed validation images that the operating threshold accepts."""

LOWER_IS_BETTER = LOWER | {"unknown_accepted"}
POOLED = ""
"""All unknown generators together, among the names of generators."""


@dataclass(frozen=True)
class Detection:
    """Scores of one detector of one run; higher is more like the known.

    Attributes:
        known: scores of the test fold.
        unknown: scores of the unknown generators.
        correct: which test images the logits attribute right.
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
        """Score every image through one call; the threshold is chosen on `val` alone."""
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
        """Open-set metrics and rates at the threshold, for `POOLED` and each generator.

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


Metrics = dict[str, Summary]
RESERVED = frozenset(
    {"detector", "mean", "worst", "worst_generator", "sd", "interval", "folds", "closed"}
)


@dataclass(frozen=True)
class OpenSummary:
    """The metrics of `leaknet.metrics.open_values`, and the rates at the validation threshold.

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
        names = {"detector": self.detector, "worst_generator": self.worst_by("auroc")}
        return names | layout(self.nested)

    def nested(self, pick: Callable[[Summary], Any]) -> dict[str, Any]:
        """One property of every figure: pooled ones on top, then mean, worst, generators."""
        groups = {"mean": self.mean, "worst": self.worst, **self.generators}
        return picked(self.pooled, pick) | {n: picked(g, pick) for n, g in groups.items()}


def summarise_open(detector: str, trials: Sequence[Sequence[Detection]]) -> OpenSummary:
    """Summarise one detector.

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
    measures = [partial(_table, one, names) for one in trials]
    found = over_seeds(measures, [group for fold in folds for group in fold.sets])
    group = partial(by_metric, found)
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
    parts = [None] * len(folds) if weights is None else _of_folds(folds, weights)
    tables = [fold.values(part) for fold, part in zip(folds, parts, strict=True)]
    values: Values = {}
    for metric in tables[0][POOLED]:
        each = {n: np.mean([t[n][metric] for t in tables if n in t], axis=0) for n in names}
        values |= {(name, metric): row for name, row in each.items()}
        values[("mean", metric)] = np.mean(list(each.values()), axis=0)
        values[(POOLED, metric)] = np.mean([t[POOLED][metric] for t in tables], axis=0)
        values |= {(_fold(i), metric): t[POOLED][metric] for i, t in enumerate(tables)}
    return values


def _of_folds(folds: Sequence[Detection], weights: Sequence[Weights]) -> list[list[Weights]]:
    """The weights that belong to each fold."""
    left = list(weights)
    return [[left.pop(0) for _ in fold.sets] for fold in folds]


def _fold(number: int) -> str:
    return f"\0fold {number}"  # no folder, hence no generator, has this name


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
