"""What may be learned from: closed training and validation images, and nothing else.

Every `fit` passes through `require_closed`, so that no image of an unknown generator, and no
test image, can influence a density, a bandwidth or any other choice.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Float64, Int

from leakcache.errors import ScoringError
from leaknet.data.embeddings import Embeddings

LEAST_PER_CLASS = 2


def require_closed(train: Embeddings, val: Embeddings) -> None:
    """Raise ScoringError unless a detector may be fitted to these embeddings.

    Refused are rows of the folds "test" and "open", different classes in the two sets, no
    validation images, a class of fewer than two training images (its density would be that of
    nothing, and an empty class wins every comparison by default), and a collapsed network.
    """
    for e in (train, val):
        foreign = np.flatnonzero(~np.isin(e.folds, ("train", "val")))
        if foreign.size:
            row = foreign[0]
            raise ScoringError(
                f"{e.paths[row]} of fold '{e.folds[row]}' was given to fit a detector: "
                "detectors learn from the folds train and val alone"
            )
    if train.classes != val.classes:
        raise ScoringError("training and validation embeddings come from runs of other classes")
    if not len(val):
        raise ScoringError("there are no validation images to choose a detector's settings on")
    _require_enough(train)
    _require_spread(train)


def class_counts(e: Embeddings) -> Int[np.ndarray, "class"]:
    """Images of each closed class."""
    return np.bincount(e.targets, minlength=len(e.classes))


@dataclass(frozen=True)
class Standardiser:
    """The global z-score: mean and scale of each dimension over all closed training images.

    A dimension that (almost) does not vary keeps scale 1, so that it can't drown the others.
    """

    mean: Float64[np.ndarray, "dimension"]
    scale: Float64[np.ndarray, "dimension"]

    @classmethod
    def of(cls, train: Embeddings) -> Standardiser:
        """The z-score of these training embeddings."""
        vectors = train.vectors.astype(np.float64)
        spread = vectors.std(axis=0)
        return cls(vectors.mean(axis=0), np.where(spread > 1e-6 * spread.max(), spread, 1.0))

    def __call__(
        self, vectors: Float[np.ndarray, "n dimension"]
    ) -> Float64[np.ndarray, "n dimension"]:
        """Standardised vectors in float64."""
        standard: Float64[np.ndarray, "n dimension"] = (vectors - self.mean) / self.scale
        return standard


def _require_enough(train: Embeddings) -> None:
    counts = class_counts(train)
    if counts.min() < LEAST_PER_CLASS:
        c = int(counts.argmin())
        raise ScoringError(
            f"the class {train.classes[c]!r} has {counts[c]} training images, a detector needs "
            f"{LEAST_PER_CLASS}: add images to it or leave the class out"
        )


def _require_spread(train: Embeddings) -> None:
    if not np.ptp(train.vectors, axis=0).any():
        raise ScoringError(
            f"all {len(train)} training embeddings are identical: the network has collapsed, "
            "train again with a lower learning rate"
        )
