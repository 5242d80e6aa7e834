"""From raw scores to answers that can be defended: calibration, p-values, ratios, decisions."""

from leaknet.calibration.calibration import (
    Calibration,
    calibrate,
    load_calibration,
    save_calibration,
)
from leaknet.calibration.conformal import conformal_p_values, score_threshold
from leaknet.calibration.decision import Decision, decide, doubt, verbal

__all__ = [
    "Calibration",
    "Decision",
    "calibrate",
    "conformal_p_values",
    "decide",
    "doubt",
    "load_calibration",
    "save_calibration",
    "score_threshold",
    "verbal",
]
