"""Metrics as pure functions of scores: closed set, open set, bootstrap, paired tests.

Every metric takes optional weights per image, with a leading axis of resamples, so that the
bootstrap evaluates the code that gives the point estimate.
"""

from leaknet.metrics.closed_set import closed_values, expected_calibration_error
from leaknet.metrics.open_set import Roc, auroc, open_values, roc

__all__ = ["Roc", "auroc", "closed_values", "expected_calibration_error", "open_values", "roc"]
