"""Metrics as pure functions of scores; summaries over seeds, with bootstrap and paired tests.

Every metric takes optional weights per image, with a leading axis of resamples, so that the
bootstrap evaluates the code that gives the point estimate.
"""

from leaknet.metrics.values import (
    Roc,
    auroc,
    closed_values,
    expected_calibration_error,
    open_values,
    roc,
)

__all__ = ["Roc", "auroc", "closed_values", "expected_calibration_error", "open_values", "roc"]
