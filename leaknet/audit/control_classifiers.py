"""How well one kind of evidence tells the known generators apart, and what chance would give."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float, Float64, Int, Shaped

from leakcache.dataset.index import DatasetIndex
from leakcache.dataset.records import canonical
from leakcache.errors import ScoringError
from leaknet.audit.cross_validation import TREES, TREES_OF_ONE_FACT, Protocol, log_probabilities
from leaknet.audit.fact_table import FactTable
from leaknet.audit.observations import Observations
from leaknet.metrics.bootstrap import Interval, closed_intervals, cluster_weights
from leaknet.metrics.closed_set import closed_values, per_class_auc
from leaknet.metrics.open_set import auroc
from leaknet.metrics.roc import roc

if TYPE_CHECKING:
    from leaknet.data.split import SplitLatents


# The label-shuffle control: with labels that mean nothing, nothing may be learned.
#
# `leak audit` shuffles the labels of its own classifiers. For a model, train on `shuffle_index`
# (or hand `shuffle_split` to the trainer): its test fold must come out at chance, else the
# evaluation gives answers away.


def shuffle_labels(
    labels: Shaped[np.ndarray, "image"], folds: Shaped[np.ndarray, "image"], seed: int
) -> Shaped[np.ndarray, "image"]:
    """Permute labels among the images of each closed fold, so that every fold keeps its counts.

    Images of the open set keep theirs. Depends on the order of the images and the seed alone.
    """
    shuffled = labels.copy()
    rng = np.random.default_rng(seed)
    for fold in ("train", "val", "test"):
        rows = np.flatnonzero(folds == fold)
        shuffled[rows] = labels[rng.permutation(rows)]
    return shuffled


def shuffle_index(index: DatasetIndex, seed: int) -> DatasetIndex:
    """The same images, groups and folds under shuffled labels."""
    labels = _column([record.label for record in index.records])
    folds = _column([record.fold for record in index.records])
    shuffled = shuffle_labels(labels, folds, seed).tolist()
    records = [replace(r, label=label) for r, label in zip(index.records, shuffled, strict=True)]
    layout = f"{index.layout}; labels shuffled within folds with seed {seed}"
    return replace(index, records=canonical(records), layout=layout)


def shuffle_split(split: SplitLatents, seed: int) -> SplitLatents:
    """The same latents under shuffled labels."""
    return replace(split, labels=shuffle_labels(split.labels, split.folds, seed))


def _column(values: Sequence[str]) -> Shaped[np.ndarray, "image"]:
    return np.array(values, str)


SHUFFLES = 3
RESAMPLES = 500


@dataclass(frozen=True)
class Accuracy:
    """Top-1 accuracy and macro AUC, both in [0, 1], of one fact or of shuffled labels."""

    top1: float
    macro_auc: float


@dataclass(frozen=True)
class ClosedControl:
    """A classifier without any signal leak to go by, judged on images of unseen prompts.

    Attributes:
        top1, macro_auc: with 95 % intervals, clustered by prompt group.
        per_class_auc: of each generator against the rest; NaN where none of its images is judged.
        chance: top-1 of always naming the largest class; the AUC's chance is 0.5.
        images: judged.
        protocol: in words.
        shuffled: on labels shuffled within folds, with fewer trees, one entry a shuffle.
        facts: for file facts, what each alone achieves, best first.
    """

    top1: Interval
    macro_auc: Interval
    per_class_auc: Mapping[str, float]
    chance: float
    images: int
    protocol: str
    shuffled: tuple[Accuracy, ...]
    facts: Mapping[str, Accuracy]

    @property
    def beyond_chance(self) -> bool:
        """Whether the macro AUC is above chance, for the prompts and for the images drawn."""
        return self.macro_auc.low > 0.5 and self.macro_auc.value > 0.5 + 3 * self.deviation

    @property
    def deviation(self) -> float:
        """Standard error of the macro AUC at chance: of Mann and Whitney's for a class of mean
        size, over as many classes, as if images and classes were independent.
        """
        classes = len(self.per_class_auc)
        own = self.images / classes
        return float(((self.images + 1) / (12 * own * (self.images - own)) / classes) ** 0.5)

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {
            "top1": self.top1.value,
            "macro_auc": self.macro_auc.value,
            "interval": {
                "top1": [self.top1.low, self.top1.high],
                "macro_auc": [self.macro_auc.low, self.macro_auc.high],
            },
            "per_class_auc": dict(self.per_class_auc),
            "chance": self.chance,
            "images": self.images,
            "protocol": self.protocol,
            "shuffled": {
                "top1": float(np.mean([s.top1 for s in self.shuffled])),
                "macro_auc": float(np.mean([s.macro_auc for s in self.shuffled])),
                "repeats": len(self.shuffled),
            },
            "facts": {name: vars(accuracy) for name, accuracy in self.facts.items()},
        }


class ClosedJudge:
    """Judges several kinds of evidence on the same images in the same way."""

    def __init__(self, seen: Observations, protocol: Protocol) -> None:
        """`seen` holds images of known generators alone, of two at least."""
        self._seen = seen
        self._protocol = protocol
        self._classes, self._targets = np.unique(seen.labels, return_inverse=True)

    def judge(self, features: Float[np.ndarray, "image column"]) -> ClosedControl:
        """All columns together, on true and on shuffled labels."""
        judged = self._protocol.judged
        targets = self._targets[judged]
        scores = self._scores(features, self._targets)
        intervals = _intervals(scores, targets, self._seen.groups[judged])
        areas = per_class_auc(scores, targets)[0].tolist()
        return ClosedControl(
            top1=intervals["top1"],
            macro_auc=intervals["macro_auc"],
            per_class_auc=dict(zip(self._classes.tolist(), areas, strict=True)),
            chance=float(np.bincount(targets).max() / len(targets)),
            images=len(judged),
            protocol=self._protocol.words,
            shuffled=tuple(self._shuffled(features, seed) for seed in range(SHUFFLES)),
            facts={},
        )

    def judge_facts(self, table: FactTable) -> ClosedControl:
        """All facts together, and each by itself."""
        alone = table.each(self._alone)
        # Sorting is stable: of facts that say the same, the one named first stays first.
        best = dict(sorted(alone.items(), key=lambda item: -round(item[1].macro_auc, 3)))
        return replace(self.judge(table.matrix), facts=best)

    def _alone(self, features: Float[np.ndarray, "image column"]) -> Accuracy:
        scores = self._scores(features, self._targets, TREES_OF_ONE_FACT)
        return _accuracy(scores, self._targets[self._protocol.judged])

    def _shuffled(self, features: Float[np.ndarray, "image column"], seed: int) -> Accuracy:
        targets = shuffle_labels(self._targets, self._seen.folds, seed)
        scores = self._scores(features, targets, TREES_OF_ONE_FACT)
        return _accuracy(scores, targets[self._protocol.judged])

    def _scores(
        self,
        features: Float[np.ndarray, "image column"],
        targets: Int[np.ndarray, "image"],
        trees: int = TREES,
    ) -> Float64[np.ndarray, "judged class"]:
        return log_probabilities(features, targets, len(self._classes), self._protocol, trees)


def _accuracy(scores: np.ndarray, targets: np.ndarray) -> Accuracy:
    values = closed_values(scores, targets)
    return Accuracy(float(values["top1"][0]), float(values["macro_auc"][0]))


def _intervals(scores: np.ndarray, targets: np.ndarray, groups: np.ndarray) -> dict[str, Interval]:
    try:
        return closed_intervals(scores, targets, groups, resamples=RESAMPLES)
    except ScoringError:
        # A single prompt group says nothing about other prompts: anything is possible.
        values = closed_values(scores, targets)
        return {name: Interval(float(value[0]), 0.0, 1.0) for name, value in values.items()}


# Could the unknown generators be told from the known ones without looking at any leak?
#
# A classifier is trained to tell closed images from open ones, which no honest detector may do:
# what it achieves is how far an open-set figure can be owed to size, format or subject alone.

RESAMPLES_OPEN_CONTROL = 500


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
        draws = cluster_weights([known_groups, unknown_groups], resamples=RESAMPLES_OPEN_CONTROL)
        sample = [roc(known, unknown, own, theirs).auroc() for own, theirs in draws]
    except ScoringError:
        # A single prompt group says nothing about other prompts: anything is possible.
        return Interval(value, 0.0, 1.0)
    return Interval.of(value, np.concatenate(sample))


def _plain(interval: Interval) -> dict[str, Any]:
    return {"auroc": interval.value, "interval": [interval.low, interval.high]}
