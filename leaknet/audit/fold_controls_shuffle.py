"""The label-shuffle control: with labels that mean nothing, nothing may be learned.

`leak audit` shuffles the labels of its own classifiers. For a model, train on `shuffle_index`
(or hand `shuffle_split` to the trainer): its test fold must come out at chance, else the
evaluation gives answers away.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Shaped

from leakcache.dataset.index import DatasetIndex
from leakcache.dataset.records import canonical

if TYPE_CHECKING:
    from leaknet.data.split import SplitLatents


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
