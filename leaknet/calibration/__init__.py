"""From raw scores to answers that can be defended: calibration, p-values, ratios, decisions."""

from leaknet.calibration.calibration import Calibration
from leaknet.calibration.conformal import conformal_p_values
from leaknet.calibration.decision import Decision, decide, doubt
from leaknet.calibration.fold_calibration_files import calibrate, load_calibration, save_calibration
from leaknet.calibration.fold_calibration_verbal import verbal

__all__ = [
    "Calibration",
    "Decision",
    "calibrate",
    "conformal_p_values",
    "decide",
    "doubt",
    "load_calibration",
    "save_calibration",
    "verbal",
]
