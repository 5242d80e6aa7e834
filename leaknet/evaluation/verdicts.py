"""Verdicts and prediction sets of calibrated images, and their weighted rates."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Float64

from leaknet.calibration import Calibration
from leaknet.calibration.conformal import FAR
from leaknet.calibration.decision import KNOWN, OUTSIDE, UNKNOWN, UNSURE
from leaknet.data.embeddings import Embeddings
from leaknet.detectors import Detector
from leaknet.evaluation.summary import Weights

VERDICTS = (UNKNOWN, OUTSIDE, KNOWN, UNSURE)

Columns = dict[str, Float64[np.ndarray, "_"]]


def verdict_columns(
    calibration: Calibration, detector: Detector, e: Embeddings, alpha: float
) -> Columns:
    """0 or 1 for each image and verdict, as `leaknet.calibration.decision.decide` has it."""
    return _columns(calibration, detector, e, alpha)[0]


def known_columns(
    calibration: Calibration, detector: Detector, e: Embeddings, alpha: float
) -> Columns:
    """Columns of images of known generators, whose labels are among the classes.

    Returns:
        false_alarms: called unknown, or outside the calibrated range in place of it; at most
            `alpha` on average is guaranteed.
        outside: called outside the calibrated range, also where there are too few calibrating
            images to call any unknown.
        named_right, named_wrong, unsure: the other verdicts; named wrong at most `alpha` on
            average is guaranteed.
        coverage: the prediction set holds the right generator; at least 1 - `alpha` on average
            is guaranteed over all generators, not for each.
        set_size: generators in the prediction set.
    """
    verdicts, sets = _columns(calibration, detector, e, alpha)
    rejected = calibration.p_values(e, detector) <= alpha
    covered = sets[np.arange(len(e)), e.targets].astype(np.float64)
    right = (calibration.log_probabilities(e).argmax(axis=1) == e.targets).astype(np.float64)
    return {
        "false_alarms": rejected.astype(np.float64),
        OUTSIDE: verdicts[OUTSIDE],
        "named_right": verdicts[KNOWN] * right,
        "named_wrong": verdicts[KNOWN] * (1 - right),
        "unsure": verdicts[UNSURE],
        "coverage": covered,
        "set_size": sets.sum(axis=1).astype(np.float64),
    }


def rates(
    columns: Mapping[str, Float64[np.ndarray, "_"]], weights: Sequence[Weights] | None
) -> dict[str, Float64[np.ndarray, "resample"]]:
    """Mean of each column, for each row of the weights of these images."""
    n = len(next(iter(columns.values())))
    own = np.ones((1, n)) if weights is None else weights[0]
    return {name: own @ column / own.sum(axis=1) for name, column in columns.items()}


def _columns(
    calibration: Calibration, detector: Detector, e: Embeddings, alpha: float
) -> tuple[Columns, np.ndarray]:
    sets = calibration.prediction_sets(e, alpha)
    logs = calibration.log_probabilities(e)
    p_values = calibration.p_values(e, detector)
    far = calibration.depths(e, detector) >= FAR
    outside = far & (p_values <= max(alpha, calibration.smallest_p))
    unknown = ~outside & (p_values <= alpha)
    rest = ~outside & ~unknown
    known = rest & (logs.max(axis=1) > calibration.naming_threshold(alpha))
    found = {UNKNOWN: unknown, OUTSIDE: outside, KNOWN: known, UNSURE: rest & ~known}
    return {verdict: mask.astype(np.float64) for verdict, mask in found.items()}, sets
