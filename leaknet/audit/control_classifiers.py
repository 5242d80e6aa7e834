"""Control classifiers: accuracy on known generators and AUROC of known against unknown.

Both protocols keep the images of a prompt on one side. Cross-validation by prompt group applies
where the test fold is small, and to known against unknown images, which have no folds.

They receive file facts or thumbnails only. On labels shuffled within folds their score must stay
at chance. The open control trains on unknown images, which no detector may do: its AUROC bounds
what size, format or subject alone can contribute to an open-set score.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Generic, TypeVar

import numpy as np
from jaxtyping import Float, Float64, Int, Shaped
from sklearn.ensemble import ExtraTreesClassifier

from leakcache.errors import ScoringError
from leaknet.audit.file_facts import FactTable
from leaknet.audit.observations import Observations
from leaknet.metrics.summary import Interval, Measure, Weights, intervals
from leaknet.metrics.values import auroc, closed_values, per_class_auc, roc

Texts = Shaped[np.ndarray, "image"]
Features = Float[np.ndarray, "image column"]
Targets = Int[np.ndarray, "image"]
Scores = Float64[np.ndarray, "evaluated class"]

MIN_FOLD = 100
"""Images in the training and in the test fold from which the test fold is evaluated."""
PARTS = 5

TREES = 64
TREES_OF_ONE_FACT = 24

_FLOOR = 1e-6

Rows = Int[np.ndarray, "_"]


@dataclass(frozen=True)
class Protocol:
    """Pairs of training and evaluated rows; no row is evaluated twice.

    Attributes:
        splits: the pairs.
        description: of the evaluated images, for the reader.
    """

    splits: tuple[tuple[Rows, Rows], ...]
    description: str

    @property
    def evaluated(self) -> Rows:
        """All evaluated rows, in the order of `log_probabilities`."""
        return np.concatenate([evaluated for _, evaluated in self.splits])


def closed_protocol(folds: Texts, groups: Texts) -> Protocol | None:
    """The protocol for known generators; None for a single prompt group."""
    train, test = (np.flatnonzero(folds == fold) for fold in ("train", "test"))
    if min(len(train), len(test)) >= MIN_FOLD:
        return Protocol(((train, test),), f"test fold, {len(test)} images")
    return group_protocol(groups)


def group_protocol(groups: Texts) -> Protocol | None:
    """Cross-validation over prompt groups with a fixed seed; None for fewer than two groups."""
    names, codes = np.unique(groups, return_inverse=True)
    parts = min(PARTS, len(names))
    if parts < 2:
        return None
    part = (np.random.default_rng(0).permutation(len(names)) % parts)[codes]
    splits = tuple((np.flatnonzero(part != k), np.flatnonzero(part == k)) for k in range(parts))
    return Protocol(splits, f"{parts}-fold cross-validation by prompt group, {len(groups)} images")


def log_probabilities(
    features: Features, targets: Targets, classes: int, protocol: Protocol, trees: int = TREES
) -> Scores:
    """Out-of-group log-probability of each class for the evaluated rows.

    The trees are fitted with balanced classes. Their probabilities are then weighted by the class
    frequencies of all data: the frequencies of a training part depend on the evaluated part.
    """
    parts = []
    for train, evaluated in protocol.splits:
        probabilities = np.zeros((len(evaluated), classes))
        if features.shape[1]:
            model = fit_trees(features[train], targets[train], trees)
            probabilities[:, model.classes_] = model.predict_proba(features[evaluated])
        # Rounded, so that equal images tie across splits. The floor keeps every class possible,
        # also without features and for a class without training images.
        parts.append(probabilities.round(9) + _FLOOR)
    weighted = np.concatenate(parts) * np.bincount(targets, minlength=classes)
    logs: Scores = np.log(weighted / weighted.sum(axis=1, keepdims=True))
    return logs


def fit_trees(
    features: Features, targets: Targets, trees: int = TREES, seed: int = 0
) -> ExtraTreesClassifier:
    """Extremely randomised trees with balanced class weights.

    They outperform linear models on thumbnails (docs/AUDIT.md).
    """
    # On few images threads cost more than they save.
    jobs = 1 if len(features) < 2000 else -1
    return ExtraTreesClassifier(
        trees, min_samples_leaf=2, class_weight="balanced", random_state=seed, n_jobs=jobs
    ).fit(features, targets)


SHUFFLES = 3
RESAMPLES = 500


@dataclass(frozen=True)
class Accuracy:
    """Top-1 accuracy and macro AUC, both in [0, 1], of one fact or of shuffled labels."""

    top1: float
    macro_auc: float


@dataclass(frozen=True)
class ClosedControl:
    """Accuracy of a control classifier on known generators, on images of unseen prompts.

    Attributes:
        top1, macro_auc: with 95 % intervals, clustered by prompt group.
        per_class_auc: each generator against the rest; NaN without evaluated images.
        chance: top-1 of the largest class; the AUC's chance level is 0.5.
        images: number of evaluated images.
        protocol: description of the evaluated images.
        shuffled: accuracy on labels shuffled within folds, with fewer trees, one per shuffle.
        facts: for file facts, accuracy of each alone, best first.
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
        """Whether the macro AUC exceeds chance by its interval and by three standard errors."""
        return self.macro_auc.low > 0.5 and self.macro_auc.value > 0.5 + 3 * self.standard_error

    @property
    def standard_error(self) -> float:
        """Standard error of the macro AUC at chance (Mann and Whitney 1947, classes of mean size,
        images and classes taken as independent).
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
            "shuffled": vars(self.mean_shuffled) | {"repeats": len(self.shuffled)},
            "facts": {name: vars(accuracy) for name, accuracy in self.facts.items()},
        }

    @property
    def mean_shuffled(self) -> Accuracy:
        """Mean accuracy over the shuffles."""
        return Accuracy(
            float(np.mean([s.top1 for s in self.shuffled])),
            float(np.mean([s.macro_auc for s in self.shuffled])),
        )


@dataclass(frozen=True)
class OpenControl:
    """AUROC of known against unknown images, with 95 % intervals clustered by prompt group.

    Attributes:
        auroc: of all unknown images together.
        generators: AUROC of each unknown generator.
        images: numbers of known and of unknown images.
        protocol: description of the evaluated images.
        facts: for file facts, AUROC of each alone, best first.
    """

    auroc: Interval
    generators: Mapping[str, Interval]
    images: tuple[int, int]
    protocol: str
    facts: Mapping[str, float]

    @property
    def beyond_chance(self) -> bool:
        """Whether the AUROC exceeds chance by its interval and by three standard errors."""
        known, unknown = self.images
        standard_error = ((known + unknown + 1) / (12 * known * unknown)) ** 0.5
        return self.auroc.low > 0.5 and self.auroc.value > 0.5 + 3 * standard_error

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {
            **_plain(self.auroc),
            "generators": {name: _plain(value) for name, value in self.generators.items()},
            "images": {"known": self.images[0], "unknown": self.images[1]},
            "protocol": self.protocol,
            "facts": dict(self.facts),
        }


Control = TypeVar("Control", ClosedControl, OpenControl)


class Evaluator(ABC, Generic[Control]):
    """Evaluates several sets of features on the same images with the same protocol."""

    @abstractmethod
    def evaluate(self, features: Features) -> Control:
        """All columns together."""

    @abstractmethod
    def _alone(self, features: Features) -> Any:
        """One fact's entry in the control's `facts`, from fewer trees."""

    def evaluate_facts(self, table: FactTable) -> Control:
        """All facts together, and each alone."""
        alone = table.evaluate_each(self._alone)
        # Sorting is stable: among equivalent facts the first keeps its position.
        order = sorted(alone, key=lambda fact: -round(_area(alone[fact]), 3))
        return replace(self.evaluate(table.matrix), facts={fact: alone[fact] for fact in order})


class ClosedEvaluator(Evaluator[ClosedControl]):
    """Evaluates classification of at least two known generators."""

    def __init__(self, observations: Observations, protocol: Protocol) -> None:
        self._folds = observations.folds
        self._protocol = protocol
        self._classes, self._targets = np.unique(observations.labels, return_inverse=True)
        self._groups = observations.groups[protocol.evaluated]

    def evaluate(self, features: Features) -> ClosedControl:
        """All columns together, on true and on shuffled labels."""
        targets = self._targets[self._protocol.evaluated]
        scores = self._scores(features, self._targets)
        intervals = _closed_intervals(scores, targets, self._groups)
        areas = per_class_auc(scores, targets)[0].tolist()
        return ClosedControl(
            top1=intervals["top1"],
            macro_auc=intervals["macro_auc"],
            per_class_auc=dict(zip(self._classes.tolist(), areas, strict=True)),
            chance=float(np.bincount(targets).max() / len(targets)),
            images=len(targets),
            protocol=self._protocol.description,
            shuffled=tuple(self._shuffled(features, seed) for seed in range(SHUFFLES)),
            facts={},
        )

    def _alone(self, features: Features) -> Accuracy:
        return self._accuracy(features, self._targets)

    def _shuffled(self, features: Features, seed: int) -> Accuracy:
        return self._accuracy(features, shuffle_labels(self._targets, self._folds, seed))

    def _accuracy(self, features: Features, targets: Targets) -> Accuracy:
        scores = self._scores(features, targets, TREES_OF_ONE_FACT)
        values = closed_values(scores, targets[self._protocol.evaluated])
        return Accuracy(float(values["top1"][0]), float(values["macro_auc"][0]))

    def _scores(self, features: Features, targets: Targets, trees: int = TREES) -> Scores:
        return log_probabilities(features, targets, len(self._classes), self._protocol, trees)


class OpenEvaluator(Evaluator[OpenControl]):
    """Evaluates separation of known and unknown images."""

    def __init__(self, observations: Observations, protocol: Protocol) -> None:
        self._targets = (~observations.unknown).astype(np.int64)
        self._protocol = protocol
        evaluated = protocol.evaluated
        self._known = self._targets[evaluated] == 1
        self._groups = observations.groups[evaluated]
        self._labels = observations.labels[evaluated]

    def evaluate(self, features: Features) -> OpenControl:
        """All columns together."""
        scores = self._scores(features, TREES)
        known = scores[self._known], self._groups[self._known]
        unknown, groups = scores[~self._known], self._groups[~self._known]
        labels = self._labels[~self._known]
        return OpenControl(
            auroc=_auroc_interval(*known, unknown, groups),
            generators={
                str(name): _auroc_interval(*known, unknown[labels == name], groups[labels == name])
                for name in np.unique(labels)
            },
            images=(len(known[0]), len(unknown)),
            protocol=self._protocol.description,
            facts={},
        )

    def _alone(self, features: Features) -> float:
        scores = self._scores(features, TREES_OF_ONE_FACT)
        return auroc(scores[self._known], scores[~self._known])

    def _scores(self, features: Features, trees: int) -> Float64[np.ndarray, "evaluated"]:
        return log_probabilities(features, self._targets, 2, self._protocol, trees)[:, 1]


def shuffle_labels(labels: Texts, folds: Texts, seed: int) -> Texts:
    """Permute labels within each closed fold: every fold keeps its class counts.

    Labels of the open set do not change. Depends on the order of the images and on the seed.
    """
    shuffled = labels.copy()
    rng = np.random.default_rng(seed)
    for fold in ("train", "val", "test"):
        rows = np.flatnonzero(folds == fold)
        shuffled[rows] = labels[rng.permutation(rows)]
    return shuffled


def _area(value: Accuracy | float) -> float:
    return value.macro_auc if isinstance(value, Accuracy) else value


def _closed_intervals(
    scores: np.ndarray, targets: np.ndarray, groups: np.ndarray
) -> dict[str, Interval]:
    def measure(weights: Sequence[Weights] | None) -> Mapping[str, np.ndarray]:
        return closed_values(scores, targets, None if weights is None else weights[0])

    return _intervals(measure, [groups])


def _auroc_interval(
    known: Float64[np.ndarray, "known"],
    known_groups: Shaped[np.ndarray, "known"],
    unknown: Float64[np.ndarray, "unknown"],
    unknown_groups: Shaped[np.ndarray, "unknown"],
) -> Interval:
    def measure(weights: Sequence[Weights] | None) -> Mapping[str, np.ndarray]:
        return {"auroc": roc(known, unknown, *(weights or ())).auroc()}

    return _intervals(measure, [known_groups, unknown_groups])["auroc"]


def _intervals(measure: Measure[str], groups: Sequence[np.ndarray]) -> dict[str, Interval]:
    try:
        return intervals(measure, groups, resamples=RESAMPLES)
    except ScoringError:  # a single prompt group gives no information on other prompts
        return {name: Interval(float(v[0]), 0.0, 1.0) for name, v in measure(None).items()}


def _plain(interval: Interval) -> dict[str, Any]:
    return {"auroc": interval.value, "interval": [interval.low, interval.high]}
