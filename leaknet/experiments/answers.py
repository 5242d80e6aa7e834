"""What a user is told, and how often it is right: the decision layer under every protocol.

Each run is calibrated on its own closed validation images, exactly as `leak score IMAGE` does it;
test images of known generators and images of unknown ones then get an answer each.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from leaknet.calibration import Calibration
from leaknet.calibration.calibration import measure_known, measure_verdicts
from leaknet.detectors import Detector
from leaknet.evaluation.summary import Summary
from leaknet.experiments.trial import Trial

KNOWN = (
    "false_alarms",
    "named_right",
    "named_wrong",
    "unsure",
    "coverage",
    "set_size",
    "ece_before",
    "ece_after",
    "cllr",
    "min_cllr",
)
"""Figures of known images; see `leaknet.calibration.calibration.measure_known`."""


@dataclass(frozen=True)
class AnswerSummary:
    """Answers at one false-alarm rate.

    Attributes:
        alpha: that rate: how many images of known generators may be called unknown.
        detector: that decides.
        known: figures of `KNOWN`, over test images of known generators.
        unknown: by unknown generator, shares called `unknown`, `known` and `unsure`.
    """

    alpha: float
    detector: str
    known: dict[str, Summary]
    unknown: dict[str, dict[str, Summary]]

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON; `sd` repeats the layout of the values."""
        return {
            "alpha": self.alpha,
            "detector": self.detector,
            **self._nested(lambda summary: summary.value),
            "sd": self._nested(lambda summary: summary.sd),
        }

    def _nested(self, pick: Callable[[Summary], Any]) -> dict[str, Any]:
        generators = {
            name: {key: pick(one) for key, one in row.items()} for name, row in self.unknown.items()
        }
        return {"known": {k: pick(one) for k, one in self.known.items()}, "unknown": generators}


def summarise_answers(
    trials: Sequence[Sequence[Trial]], detector: str, alpha: float
) -> AnswerSummary | None:
    """Answers over seeds, each seed being the mean of its folds.

    Args:
        trials: by seed, then by fold; the folds of all seeds are the same.
        detector: name of the one that decides, which every trial has fitted.
        alpha: false-alarm rate, in (0, 1).

    Returns:
        The summary; None where a validation fold has a single prompt group, as it cannot
        calibrate.
    """
    if any(len(set(one.val.groups.tolist())) < 2 for folds in trials for one in folds):
        return None
    rows = [[_answers(one, detector, alpha) for one in folds] for folds in trials]
    strangers = sorted({name for folds in rows for _, table in folds for name in table})
    return AnswerSummary(
        alpha,
        detector,
        {key: _over([[known[key] for known, _ in folds] for folds in rows]) for key in KNOWN},
        {
            name: {
                verdict: _over([[t[name][verdict] for _, t in f if name in t] for f in rows])
                for verdict in ("unknown", "known", "unsure")
            }
            for name in strangers
        },
    )


def _over(values: Sequence[Sequence[float]]) -> Summary:
    return Summary(tuple(float(np.mean(folds)) for folds in values), None)


def _answers(
    trial: Trial, detector: str, alpha: float
) -> tuple[dict[str, float], dict[str, dict[str, float]]]:
    judge = next(d for d in trial.scorers.detectors if d.name == detector)
    calibration = Calibration.fit(trial.known, [judge])
    return _known(calibration, judge, trial, alpha), _unknown(calibration, judge, trial, alpha)


def _known(
    calibration: Calibration, judge: Detector, trial: Trial, alpha: float
) -> dict[str, float]:
    found = measure_known(calibration, judge, trial.test, alpha)
    verdicts = found["verdicts"]
    named = {
        "named_right": verdicts["known"] - verdicts["named_wrong"],
        "named_wrong": verdicts["named_wrong"],
        "unsure": verdicts["unsure"],
    }
    figures = found | named
    return {key: figures[key] for key in KNOWN}


def _unknown(
    calibration: Calibration, judge: Detector, trial: Trial, alpha: float
) -> dict[str, dict[str, float]]:
    if trial.unknown is None:
        return {}
    labels = trial.unknown.labels
    return {
        str(name): measure_verdicts(calibration, judge, trial.unknown.take(labels == name), alpha)
        for name in np.unique(labels)
    }
