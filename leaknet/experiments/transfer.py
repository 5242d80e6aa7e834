"""Transfer: a run evaluated on images of its generators in another situation.

They are of another collection, with other prompts and often another sampler, size and file format;
or degraded copies of the run's test images. None of them is trained on or calibrated with. The same
metrics on the run's own test images of the same generators stand beside them.
"""

from __future__ import annotations

import csv
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Float64

from leakcache.encoder.autoencoder import Encoder
from leakcache.errors import ScoringError
from leakcache.store.cache import Cache
from leaknet.config import ACTIVATIONS, PIXELS, Z0
from leaknet.data.columns import CPU, ImageColumns, load_fold
from leaknet.data.embeddings import Embeddings
from leaknet.experiments.answers import Columns, Rule, rates
from leaknet.experiments.bench_trial import STEPS, degraded_cache
from leaknet.experiments.trial import RunTrial
from leaknet.metrics import closed_values, roc
from leaknet.metrics.summary import (
    Key,
    Measure,
    Summary,
    Values,
    Weights,
    by_metric,
    layout,
    over_seeds,
    picked,
)
from leaknet.metrics.values import correct
from leaknet.scoring.run_embeddings import (
    CLOSED_FOLDS,
    require_same_encoding,
    unknown_embeddings,
)

OTHER, TEST = "", "test"
_RECALL = "recall of "
VERDICT_NAMES = {"false_alarms": "unknown", "named_right": "right", "named_wrong": "wrong"}
"""Verdicts of `Rule.known_columns` under the names that they have here."""


@dataclass(frozen=True)
class Collection:
    """Images in another situation, whose generators are known.

    Attributes:
        name: of the collection, or step1 to step3.
        cache: folder of its cache.
        splits: its images under the names of the known generators.
        same_as: known generator of each label of the collection that has one.
        left_out: images of its other labels.
        steps: degradation operations on test images; 0 for another collection.
    """

    name: str
    cache: Path
    splits: tuple[ImageColumns, ...]
    same_as: dict[str, str]
    left_out: int
    steps: int = 0

    @classmethod
    def load(cls, cache: Cache, closed: Cache, same_as: Mapping[str, str]) -> Collection:
        """Read the images that both caches have generators of.

        Args:
            cache: closed cache of the collection.
            closed: cache of the known generators.
            same_as: known generator by label of the collection, where the two differ.

        Raises:
            CacheStale: the two were encoded differently.
            ScoringError: they have no generator in common.
        """
        require_same_encoding(cache, closed)
        root, own = Path(cache.manifest.data), cache.classes
        shared = {name: same_as.get(name, name) for name in own}
        shared = {name: known for name, known in shared.items() if known in closed.classes}
        if not shared:
            raise ScoringError(
                f"--transfer {root}: none of {', '.join(own)} is a known generator: "
                "name those that are with --same-as LABEL=GENERATOR"
            )
        names = [name for name in (Z0, PIXELS, ACTIVATIONS) if cache.has(name)]
        folds = [load_fold(cache, fold, names) for fold in CLOSED_FOLDS if len(cache.rows(fold))]
        splits = tuple(_renamed(fold, shared, root.name) for fold in folds)
        count = sum(map(len, splits))
        return cls(root.name, cache.path, splits, shared, sum(map(len, folds)) - count)

    @classmethod
    def degraded(cls, closed: Cache, step: int, encoder: Encoder) -> Collection:
        """Degraded copies of the test images, made and encoded where they are missing.

        Args:
            closed: cache of the known generators.
            step: number of operations, 1 to 3.
            encoder: that of the cache.

        Raises:
            DataError: the images are not there any more.
        """
        names = [name for name in (Z0, PIXELS, ACTIVATIONS) if closed.has(name)]
        home = closed.path.parent / STEPS / closed.path.name
        cache = degraded_cache(load_fold(closed, TEST, []), closed, home, step, encoder)
        test = load_fold(cache, TEST, names)
        test = replace(test, folds=np.full(len(test), "open"))
        return cls(f"step{step}", cache.path, (test,), {one: one for one in cache.classes}, 0, step)


@dataclass(frozen=True)
class TransferSummary:
    """A recipe on another collection.

    Attributes:
        collection: what was evaluated.
        images: of it, evaluated.
        alpha: false-alarm rate of the verdicts.
        detector: that decides.
        other: metrics on the collection. `top1`, `top5`, `balanced` and `ece` are those among all
            known generators, `macro_auc` is the mean over the shared ones. `right`, `wrong`,
            `unsure` and `unknown` are rates of verdicts, with families also `family_right` and
            `family_wrong`; `coverage`, `covered`, `set_size` and `family_coverage` those of the
            prediction sets; absent where the validation fold cannot calibrate. `auroc` and
            `detector_auroc` separate the known test images from the collection by the highest
            logit and by the detector.
        test: the same on the known test images of the same generators.
        recall: top-1 of each generator, on the collection and on the test images.
    """

    collection: Collection
    images: int
    alpha: float
    detector: str
    other: dict[str, Summary]
    test: dict[str, Summary]
    recall: dict[str, dict[str, Summary]]

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON; `sd` and `interval` repeat the layout of the values."""
        return {
            "cache": str(self.collection.cache),
            "images": self.images,
            "left_out": self.collection.left_out,
            "steps": self.collection.steps,
            "same_as": self.collection.same_as,
            "alpha": self.alpha,
            "detector": self.detector,
            **layout(self.nested),
        }

    def nested(self, pick: Callable[[Summary], Any]) -> dict[str, Any]:
        """One property of every figure: of the collection on top, then `test` and `recall`."""
        recall = {name: picked(both, pick) for name, both in self.recall.items()}
        return {**picked(self.other, pick), "test": picked(self.test, pick), "recall": recall}


def _renamed(split: ImageColumns, shared: Mapping[str, str], root: str) -> ImageColumns:
    """The images of shared labels, under known names and with prompt groups of their own."""
    split = split.take(np.flatnonzero(np.isin(split.labels, list(shared))))
    labels = np.array([shared[label] for label in split.labels.tolist()], np.str_)
    groups = np.array([f"{root}/{group}" for group in split.groups.tolist()], np.str_)
    return replace(split, labels=labels, groups=groups, folds=np.full(len(split), "open"))


def read_same_as(given: Sequence[str]) -> dict[str, str]:
    """Known generator by label of another collection.

    Args:
        given: `LABEL=GENERATOR`, or a CSV file with these two columns and no header.

    Raises:
        ScoringError: an item is neither, or a file cannot be read.
    """
    found: dict[str, str] = {}
    for item in given:
        if "=" in item:
            rows = [item.split("=", 1)]
        else:
            try:
                with Path(item).open(encoding="utf-8", newline="") as file:
                    rows = [row for row in csv.reader(file) if row]
            except (OSError, ValueError) as error:
                raise ScoringError(f"--same-as {item}: cannot be read: {error}") from error
        if wrong := [row for row in rows if len(row) != 2]:
            raise ScoringError(f"--same-as {item}: {wrong[0]} is not a label and a generator")
        found |= {label.strip(): known.strip() for label, known in rows}
    return found


def load_collections(
    caches: Sequence[Cache], closed: Cache, same_as: Mapping[str, str]
) -> list[Collection]:
    """Load other collections; arguments and errors as `Collection.load`.

    Raises:
        ScoringError: two have one name, a generator of `same_as` is not known, or one of its labels
            is in no collection.
    """
    labels = {label for cache in caches for label in cache.classes}
    for label, known in same_as.items():
        if known not in closed.classes:
            names = ", ".join(closed.classes)
            raise ScoringError(f"--same-as {label}={known}: take a known generator: {names}")
        if label not in labels:
            raise ScoringError(f"--same-as {label}={known}: no collection has the label {label}")
    collections = [Collection.load(cache, closed, same_as) for cache in caches]
    if len({one.name for one in collections}) < len(collections):
        raise ScoringError("two folders given with --transfer have the same name; rename one")
    return collections


def summarise_transfer(
    trials: Sequence[RunTrial], collection: Collection, alpha: float, *, force: bool = False
) -> TransferSummary:
    """Evaluate the runs of all seeds on another collection; their first detector decides.

    Embeddings are kept in the run folders as transfer-NAME.h5.

    Raises:
        ScoringError: an image is also a known one; with `force` it is left out instead.
    """
    each = [_Transfer.of(trial, collection, alpha, force) for trial in trials]
    first = each[0]
    found = over_seeds([one.measure() for one in each], [first.other.groups, first.test.groups])
    generators = np.unique(first.other.labels).tolist()
    return TransferSummary(
        collection=collection,
        images=len(first.other),
        alpha=alpha,
        detector=trials[0].detectors[0].name,
        other=by_metric(found, OTHER),
        test=by_metric(found, TEST),
        recall={name: by_metric(found, _RECALL + name) for name in generators},
    )


@dataclass(frozen=True)
class _Transfer:
    """One run: images of the collection, and the known test images.

    `same` marks the test images of generators that the collection has. `verdicts` holds the
    columns of both sets, `detector` the scores of the deciding detector.
    """

    other: Embeddings
    test: Embeddings
    same: Bool[np.ndarray, "test"]
    verdicts: tuple[Columns, Columns]
    detector: tuple[Float64[np.ndarray, "other"], Float64[np.ndarray, "test"]]

    @classmethod
    def of(cls, trial: RunTrial, collection: Collection, alpha: float, force: bool) -> _Transfer:
        test, detector = trial.test, trial.detectors[0]
        other = unknown_embeddings(
            trial.run,
            trial.run.load_model(CPU),
            collection.splits,
            trial.known,
            force=force,
            file=f"transfer-{collection.name}.h5",
            kind="transfer",
        )
        same = np.isin(test.labels, np.unique(other.labels))
        verdicts: tuple[Columns, Columns] = ({}, {})
        if len(set(trial.val.groups.tolist())) > 1:
            rule = Rule.of(trial, detector, alpha)
            verdicts = rule.known_columns(other), rule.known_columns(test.take(same))
        scores = detector.score_samples(other), detector.score_samples(test)
        return cls(other, test, same, verdicts, scores)

    def measure(self) -> Measure[Key]:
        """Metrics of the collection (`OTHER`), of the test images (`TEST`), and recalls."""
        highest = self.other.logits.max(axis=1), self.test.logits.max(axis=1)

        def measure(weights: Sequence[Weights] | None) -> Values:
            own, test = weights or [np.ones((1, len(e))) for e in (self.other, self.test)]
            same = self.test.take(self.same), test[:, self.same]
            found = _figures(OTHER, self.other, own, self.verdicts[0])
            found |= _figures(TEST, *same, self.verdicts[1])
            for name, (outside, inside) in {
                "auroc": highest,
                "detector_auroc": self.detector,
            }.items():
                found[OTHER, name] = roc(inside, outside, test, own).auroc()
            return found

        return measure


def _figures(where: str, e: Embeddings, weights: Weights, verdicts: Columns) -> Values:
    """Closed-set metrics, verdict rates and recalls of the images of one set."""
    if not len(e):
        return {}
    right = correct(e.logits, e.targets).astype(np.float64)
    if len(np.unique(e.targets)) > 1:
        metrics = closed_values(e.logits, e.targets, weights)
    else:
        metrics = rates({"top1": right}, [weights])
    found = metrics | (rates(verdicts, [weights]) if verdicts else {})
    values: Values = {
        (where, VERDICT_NAMES.get(name, name)): value for name, value in found.items()
    }
    for name in np.unique(e.labels).tolist():
        own = weights * (e.labels == name)
        held = own.sum(axis=1)
        recall = np.divide(own @ right, held, out=np.full(len(held), np.nan), where=held > 0)
        values[_RECALL + name, where or "other"] = recall
    return values
