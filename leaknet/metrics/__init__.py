"""Figures of merit, as pure functions of scores: closed set, open set, calibration.

Every metric takes optional weights per image, with leading axes for resamples, so that the
bootstrap of `leaknet.metrics.bootstrap` evaluates the very code that gives the point estimate.
"""

from leaknet.metrics.closed_set import (
    ClosedScores,
    closed_scores,
    closed_values,
    expected_calibration_error,
)
from leaknet.metrics.open_set import (
    OpenReport,
    OpenScores,
    auroc,
    open_report,
    open_scores,
    open_values,
)
from leaknet.metrics.roc import Roc, roc

__all__ = [
    "ClosedScores",
    "OpenReport",
    "OpenScores",
    "Roc",
    "auroc",
    "closed_scores",
    "closed_values",
    "expected_calibration_error",
    "open_report",
    "open_scores",
    "open_values",
    "roc",
]
