"""Who is trained on and who is judged: the data's own folds, or cross-validation by group.

Both keep the images of a prompt together. Cross-validation judges every image once, by a
classifier that saw no image of its prompt; it is taken where the test fold is too small to say
anything, and wherever known images are told from unknown ones, for which there are no folds.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Float64, Int, Shaped
from sklearn.ensemble import ExtraTreesClassifier

SMALL = 100
"""A test fold of fewer images is not judged alone."""
PARTS = 5

TREES = 64
TREES_OF_ONE_FACT = 24

_FLOOR = 1e-6

Rows = Int[np.ndarray, "_"]


@dataclass(frozen=True)
class Protocol:
    """Pairs of training and judged rows, no row judged twice.

    Attributes:
        splits: the pairs.
        words: what is judged, for the reader.
    """

    splits: tuple[tuple[Rows, Rows], ...]
    words: str

    @property
    def judged(self) -> Rows:
        """All rows that are judged, in the order in which `log_probabilities` gives them."""
        return np.concatenate([judged for _, judged in self.splits])


def closed_protocol(
    folds: Shaped[np.ndarray, "image"], groups: Shaped[np.ndarray, "image"]
) -> Protocol | None:
    """How known generators are judged; None where one prompt group is all there is."""
    train, test = (np.flatnonzero(folds == fold) for fold in ("train", "test"))
    if len(test) >= SMALL and len(train) >= SMALL:
        return Protocol(((train, test),), f"test fold, {len(test)} images")
    return by_group(groups)


def by_group(groups: Shaped[np.ndarray, "image"]) -> Protocol | None:
    """Cross-validation over prompt groups, drawn with a fixed seed; None for a single group."""
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
) -> Float64[np.ndarray, "judged class"]:
    """Log-probability of each class for the judged rows, each from extremely randomised trees
    that never trained on its group.

    Trees rather than a linear model: on the thumbnails of a validation fold they found more
    (docs/AUDIT.md), and a control that sees less than a network could is no control. They are
    fitted as if all classes were equally common and then weighed by how common each is in all
    of the data: the mix of a training part says something of the mix of what is left.
    """
    parts = [_fit_and_judge(features, targets, classes, split, trees) for split in protocol.splits]
    weighed = np.concatenate(parts) * np.bincount(targets, minlength=classes)
    logs: Float64[np.ndarray, "judged class"] = np.log(weighed / weighed.sum(axis=1, keepdims=True))
    return logs


def _fit_and_judge(
    features: Float[np.ndarray, "image column"],
    targets: Int[np.ndarray, "image"],
    classes: int,
    split: tuple[Rows, Rows],
    trees: int,
) -> Float64[np.ndarray, "judged class"]:
    train, judged = split
    probabilities = np.zeros((len(judged), classes))
    if features.shape[1]:
        model = fit_trees(features[train], targets[train], trees)
        probabilities[:, model.classes_] = model.predict_proba(features[judged])
    # Rounded, so that equal images tie whichever split judged them. No class is ever ruled out,
    # also where nothing varies or a class has no training image.
    return probabilities.round(9) + _FLOOR


def fit_trees(
    features: Float[np.ndarray, "image column"],
    targets: Int[np.ndarray, "image"],
    trees: int = TREES,
    seed: int = 0,
) -> ExtraTreesClassifier:
    """Extremely randomised trees, all classes weighed alike."""
    # On few images threads cost more than they save.
    jobs = 1 if len(features) < 2000 else -1
    return ExtraTreesClassifier(
        trees, min_samples_leaf=2, class_weight="balanced", random_state=seed, n_jobs=jobs
    ).fit(features, targets)
