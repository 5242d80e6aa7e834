"""The validation fold in two halves, cut by prompt group: one to choose on, one to calibrate on.

A p-value is only worth its name where the images it is taken over had no say in the score. So
bandwidth, k, J and temperature are chosen on one half, and the other half is kept for counting.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict

import numpy as np

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
    labels: defaultdict[str, set[str]] = defaultdict(set)
    for group, label in zip(val.groups.tolist(), val.labels.tolist(), strict=True):
        labels[group].add(label)
    if len(labels) < 2:
        raise ScoringError(
            f"the validation fold has {len(labels)} prompt group(s) and a calibration needs two: "
            "add validation images of other prompts, or name the groups in an index file"
        )
    order = sorted(labels, key=lambda group: (sorted(labels[group]), _draw(group, seed)))
    calibrating = np.isin(val.groups, order[::2])
    return val.take(~calibrating), val.take(calibrating)


def choosing_half(val: Embeddings) -> Embeddings:
    """The half on which detectors choose their settings; all of a fold of one prompt group."""
    return cut_in_halves(val)[0] if len(set(val.groups.tolist())) > 1 else val


def _draw(group: str, seed: int) -> bytes:
    return hashlib.sha256(f"{seed}\0{group}".encode()).digest()
