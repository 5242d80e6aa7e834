"""What one run is trained and evaluated on: folds of a cache in memory.

A cache is read once; every protocol then selects rows of it. Leaving generators out keeps
their test images alone, as unknown ones: their training and validation images serve nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Bool, Shaped

from leakcache.store.cache import Cache
from leakcache.store.manifest import images_hash
from leaknet.config import RunConfig
from leaknet.data.columns import ImageColumns, load_fold
from leaknet.data.training_data import TrainingData
from leaknet.model.run_record import CacheIdentity
from leaknet.scoring.run_embeddings import CLOSED_FOLDS


@dataclass(frozen=True)
class Task:
    """One training and what it is evaluated on.

    Attributes:
        classes: the known generators, in the order of the logits.
        data: what training sees.
        test: images of known generators to evaluate.
        unknown: generators that are not trained on; empty for none.
        cache: identity of the training data, by which a run folder recognises it.
    """

    classes: tuple[str, ...]
    data: TrainingData
    test: ImageColumns
    unknown: tuple[ImageColumns, ...]
    cache: CacheIdentity

    @property
    def folds(self) -> tuple[ImageColumns, ...]:
        """The closed folds, in the order of `CLOSED_FOLDS`."""
        return (self.data.train, self.data.val, self.test)


@dataclass(frozen=True)
class ClosedSet:
    """The closed folds of a cache in memory, of which tasks are made."""

    cache: Cache
    train: ImageColumns
    val: ImageColumns
    test: ImageColumns

    @classmethod
    def load(cls, cache: Cache, config: RunConfig) -> ClosedSet:
        """Read what such a model reads of the closed folds; raises as `load_columns`."""
        names = {fold: config.columns(training=fold == "train") for fold in CLOSED_FOLDS}
        return cls(cache, *(load_fold(cache, fold, names[fold]) for fold in CLOSED_FOLDS))

    def whole(self, unknown: Sequence[ImageColumns] = ()) -> Task:
        """Train on all closed generators; those of other caches are unknown."""
        data = TrainingData(self.train, self.val, self.cache.moments("train"))
        identity = CacheIdentity.of(self.cache)
        return Task(self.cache.classes, data, self.test, tuple(unknown), identity)

    def without(self, left: Sequence[str]) -> Task:
        """Train on all but some generators, whose test images are then the unknown ones."""
        kept = tuple(name for name in self.cache.classes if name not in left)
        train, val, test = (
            rows_of(split, np.isin(split.labels, kept))
            for split in (self.train, self.val, self.test)
        )
        data = TrainingData(train, val, self.cache.moments("train", labels=kept))
        unknown = rows_of(self.test, np.isin(self.test.labels, left))
        unknown = replace(unknown, folds=np.full(len(unknown), "open"))
        return Task(kept, data, test, (unknown,), self._identity(train))

    def shuffled(self, seed: int) -> Task:
        """Train on labels that were permuted within each fold; the test fold keeps its own."""
        rng = np.random.default_rng(seed)
        train = relabelled(self.train, rng.permutation(self.train.labels))
        val = relabelled(self.val, rng.permutation(self.val.labels))
        data = TrainingData(train, val, self.cache.moments("train"))
        return Task(self.cache.classes, data, self.test, (), self._identity(train))

    def _identity(self, train: ImageColumns) -> CacheIdentity:
        return replace(CacheIdentity.of(self.cache), training_sha256=_training_hash(train))


def rows_of(split: ImageColumns, mask: Bool[np.ndarray, "image"]) -> ImageColumns:
    """The images that a mask selects."""
    return split.take(np.flatnonzero(mask))


def relabelled(split: ImageColumns, labels: Shaped[np.ndarray, "image"]) -> ImageColumns:
    """The same images under other labels."""
    return replace(split, labels=labels)


def _training_hash(train: ImageColumns) -> str:
    columns = (train.hashes, train.labels, train.groups, train.folds)
    return images_hash(zip(*(column.tolist() for column in columns), strict=True))
