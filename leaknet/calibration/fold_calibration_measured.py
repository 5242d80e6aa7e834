"""What the answers are worth on images that nothing was chosen or counted on."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np

from leaknet.calibration.calibration import Calibration, ratio_costs, top_label_error
from leaknet.calibration.decision import KNOWN, UNKNOWN, UNSURE, decide
from leaknet.data.embeddings import Embeddings
from leaknet.detectors import Detector


def measure_known(
    calibration: Calibration, detector: Detector, test: Embeddings, alpha: float
) -> dict[str, Any]:
    """Rates on images of known generators, such as the test fold.

    Returns:
        false_alarms: share called unknown, to be held against `alpha`.
        coverage: share whose prediction set holds the right generator; at least 1 - alpha is
            promised over all generators, nothing for one of them (coverage_by_generator).
        set_size: mean number of generators in a set.
        ece_before, ece_after: with logits as they are, and at the temperature.
        cllr, min_cllr: means over generators, in bits.
        verdicts: share of each; `named_wrong` is the share named after a wrong generator.
    """
    sets = calibration.prediction_sets(test, alpha)
    held = sets[np.arange(len(test)), test.targets]
    costs = np.array(list(ratio_costs(calibration.ratios, test, calibration.temperature).values()))
    verdicts = measure_verdicts(calibration, detector, test, alpha)
    alarms = calibration.p_values(test, detector) <= alpha
    wrong = ~alarms & (sets.sum(axis=1) == 1) & ~held
    return {
        "images": len(test),
        "false_alarms": float(alarms.mean()),
        "coverage": float(held.mean()),
        "coverage_by_generator": {
            name: float(held[test.targets == c].mean())
            for c, name in enumerate(test.classes)
            if (test.targets == c).any()
        },
        "set_size": float(sets.sum(axis=1).mean()),
        "ece_before": top_label_error(test, 1.0),
        "ece_after": top_label_error(test, calibration.temperature),
        "cllr": float(costs[:, 0].mean()),
        "min_cllr": float(costs[:, 1].mean()),
        "verdicts": {**verdicts, "named_wrong": float(wrong.mean())},
    }


def measure_verdicts(
    calibration: Calibration, detector: Detector, e: Embeddings, alpha: float
) -> dict[str, float]:
    """Share of images that are answered `known`, `unknown` and `unsure`, whoever made them."""
    names = np.array(e.classes)
    decisions = [
        decide(float(p), tuple(names[members].tolist()), alpha).verdict
        for p, members in zip(
            calibration.p_values(e, detector), calibration.prediction_sets(e, alpha), strict=True
        )
    ]
    counts = Counter(decisions)
    return {verdict: counts[verdict] / len(e) for verdict in (KNOWN, UNKNOWN, UNSURE)}
