"""Train and evaluation rows of a control, and its classifier (extremely randomised trees).

Both protocols keep the images of a prompt on one side. Cross-validation by prompt group applies
where the test fold is small, and to known against unknown images, which have no folds.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Float64, Int, Shaped
from sklearn.ensemble import ExtraTreesClassifier

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


def closed_protocol(
    folds: Shaped[np.ndarray, "image"], groups: Shaped[np.ndarray, "image"]
) -> Protocol | None:
    """The protocol for known generators; None for a single prompt group."""
    train, test = (np.flatnonzero(folds == fold) for fold in ("train", "test"))
    if min(len(train), len(test)) >= MIN_FOLD:
        return Protocol(((train, test),), f"test fold, {len(test)} images")
    return group_protocol(groups)


def group_protocol(groups: Shaped[np.ndarray, "image"]) -> Protocol | None:
    """Cross-validation over prompt groups with a fixed seed; None for fewer than two groups."""
    names, codes = np.unique(groups, return_inverse=True)
    parts = min(PARTS, len(names))
    if parts < 2:
        return None
    part = (np.random.default_rng(0).permutation(len(names)) % parts)[codes]
    splits = tuple((np.flatnonzero(part != k), np.flatnonzero(part == k)) for k in range(parts))
    return Protocol(splits, f"{parts}-fold cross-validation by prompt group, {len(groups)} images")


def log_probabilities(
    features: Float[np.ndarray, "image column"],
    targets: Int[np.ndarray, "image"],
    classes: int,
    protocol: Protocol,
    trees: int = TREES,
) -> Float64[np.ndarray, "evaluated class"]:
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
    logs: Float64[np.ndarray, "evaluated class"] = np.log(
        weighted / weighted.sum(axis=1, keepdims=True)
    )
    return logs


def fit_trees(
    features: Float[np.ndarray, "image column"],
    targets: Int[np.ndarray, "image"],
    trees: int = TREES,
    seed: int = 0,
) -> ExtraTreesClassifier:
    """Extremely randomised trees with balanced class weights.

    They outperform linear models on thumbnails (docs/AUDIT.md).
    """
    # On few images threads cost more than they save.
    jobs = 1 if len(features) < 2000 else -1
    return ExtraTreesClassifier(
        trees, min_samples_leaf=2, class_weight="balanced", random_state=seed, n_jobs=jobs
    ).fit(features, targets)
