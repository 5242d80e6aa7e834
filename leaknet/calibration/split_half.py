"""The validation fold in two halves, cut by prompt group: one to choose on, one to calibrate on.

A p-value is only worth its name where the images it is taken over had no say in the score. So
bandwidth, k, J and temperature are chosen on one half, and the other half is kept for counting.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict

import numpy as np
from jaxtyping import Bool, Shaped

from leakcache.errors import ScoringError
from leaknet.data.embeddings import Embeddings

SEED = 0


def cut_in_halves(val: Embeddings, seed: int = SEED) -> tuple[Embeddings, Embeddings]:
    """The choosing and the calibrating half; a prompt group is in one of them, whole.

    Groups are dealt alternately, in an order drawn from the seed, among those that show the same
    generators; so both halves hold every generator as far as its groups allow. The calibrating
    half gets the odd one.

    Raises:
        ScoringError: fewer than two prompt groups.
    """
    calibrating = calibrating_images(val.groups, val.labels, seed)
    return val.take(~calibrating), val.take(calibrating)


def calibrating_images(
    groups: Shaped[np.ndarray, " image"], labels: Shaped[np.ndarray, " image"], seed: int = SEED
) -> Bool[np.ndarray, " image"]:
    """Which validation images are in the calibrating half; raises as `cut_in_halves`."""
    shown: defaultdict[str, set[str]] = defaultdict(set)
    for group, label in zip(groups.tolist(), labels.tolist(), strict=True):
        shown[group].add(label)
    if len(shown) < 2:
        raise ScoringError(
            f"the validation fold has {len(shown)} prompt group(s) and a calibration needs two: "
            "add validation images of other prompts, or name the groups in an index file"
        )
    order = sorted(shown, key=lambda group: (sorted(shown[group]), _draw(group, seed)))
    calibrating: np.ndarray = np.isin(groups, order[::2])
    return calibrating


def calibration_limits(
    groups: Shaped[np.ndarray, " image"], labels: Shaped[np.ndarray, " image"], alpha: float
) -> str:
    """What a calibration on these validation images cannot do, known before training; or empty.

    Args:
        groups: prompt group of each validation image.
        labels: its generator.
        alpha: the false-alarm rate that answers are given at.
    """
    try:
        images = int(calibrating_images(groups, labels).sum())
    except ScoringError as error:
        return f"{error}; without one, `leak score IMAGE` cannot answer"
    if alpha * (images + 1) >= 1:
        return ""
    return (
        f"only {images} calibration images: no image can be called unknown at a false-alarm rate "
        f"below {1 / (images + 1):.2g} (the default is {alpha:g}); add validation images"
    )


def choosing_half(val: Embeddings) -> Embeddings:
    """The half on which detectors choose their settings; all of a fold of one prompt group."""
    return cut_in_halves(val)[0] if len(set(val.groups.tolist())) > 1 else val


def _draw(group: str, seed: int) -> bytes:
    return hashlib.sha256(f"{seed}\0{group}".encode()).digest()
