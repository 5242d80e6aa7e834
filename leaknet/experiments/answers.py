"""Verdicts and prediction sets under every protocol, and their weighted rates.

Each run is calibrated on its own closed validation images, as in `leak score IMAGE`; the test
images of known generators and the images of unknown ones then get a verdict each.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from jaxtyping import Bool, Float64

from leaknet.calibration import Calibration
from leaknet.calibration.calibration import ratio_costs, top_label_error
from leaknet.calibration.conformal import FAR, set_levels
from leaknet.calibration.decision import FAMILY, KNOWN, OUTSIDE, UNKNOWN, UNSURE
from leaknet.data.embeddings import Embeddings
from leaknet.detectors import Detector
from leaknet.experiments.trial import Trial
from leaknet.metrics.summary import (
    Key,
    Measure,
    Summary,
    Values,
    Weights,
    by_metric,
    layout,
    over_seeds,
    picked,
)
from leaknet.scoring.families import FamilyCalibration
from leaknet.scoring.scores import likeliest_families

Columns = dict[str, Float64[np.ndarray, "_"]]
PHOTOGRAPHS = "photographs"


@dataclass(frozen=True)
class Rule:
    """What answers for the images of one run.

    Attributes:
        calibration: of the run.
        detector: that decides.
        alpha: false-alarm rate.
        families: of its generators; None for a run without.
    """

    calibration: Calibration
    detector: Detector
    alpha: float
    families: FamilyCalibration | None = None

    @classmethod
    def of(cls, trial: Trial, detector: Detector, alpha: float) -> Rule:
        """Calibrate a trial on its validation images."""
        calibration = Calibration.fit(trial.known, [detector])
        families = None
        if trial.families is not None:
            families = FamilyCalibration.fit(trial.families, calibration, trial.known)
        return cls(calibration, detector, alpha, families)

    def verdicts(self, e: Embeddings) -> Columns:
        """0 or 1 for each image and verdict, as `leaknet.calibration.decision.decide` has it."""
        calibration, alpha = self.calibration, self.alpha
        p_values = calibration.p_values(e, self.detector)
        far = calibration.depths(e, self.detector) >= FAR
        outside = far & (p_values <= max(alpha, calibration.smallest_p))
        unknown = ~outside & (p_values <= alpha)
        rest = ~outside & ~unknown
        known = rest & calibration.probable(e, alpha) & ~calibration.weak(e)
        family = rest & ~known & self._family_named(e)
        found = {
            UNKNOWN: unknown,
            OUTSIDE: outside,
            KNOWN: known,
            FAMILY: family,
            UNSURE: rest & ~known & ~family,
        }
        return {verdict: mask.astype(np.float64) for verdict, mask in found.items()}

    def known_columns(self, e: Embeddings) -> Columns:
        """Columns of images of known generators, whose labels are among the classes.

        Returns:
            false_alarms: called unknown, or outside the calibrated range in place of it; at most
                `alpha` on average is guaranteed.
            outside: called outside the calibrated range, also where there are too few calibrating
                images to call any unknown.
            named_right, named_wrong, unsure: the other verdicts; named wrong at most `alpha` on
                average is guaranteed.
            family_right, family_wrong: a family is named; only with families.
            coverage: the prediction set holds the right generator; at least 1 - `alpha` on average
                is guaranteed over all generators, not for each.
            covered: it does, or the image is called unknown or outside.
            set_size: generators in the prediction set.
            family_coverage, family_set_size: the same of families; only with families.
        """
        verdicts, logs = self.verdicts(e), self.calibration.log_probabilities(e)
        rejected = self.calibration.p_values(e, self.detector) <= self.alpha
        sets = self.calibration.prediction_sets(e, self.detector, self.alpha)
        covered = sets[np.arange(len(e)), e.targets]
        right = (logs.argmax(axis=1) == e.targets).astype(np.float64)
        return {
            "false_alarms": rejected.astype(np.float64),
            OUTSIDE: verdicts[OUTSIDE],
            "named_right": verdicts[KNOWN] * right,
            "named_wrong": verdicts[KNOWN] * (1 - right),
            "unsure": verdicts[UNSURE],
            "coverage": covered.astype(np.float64),
            "covered": (covered | rejected | (verdicts[OUTSIDE] > 0)).astype(np.float64),
            "set_size": sets.sum(axis=1).astype(np.float64),
            **self._family_columns(e, verdicts[FAMILY]),
        }

    def _family_named(self, e: Embeddings) -> Bool[np.ndarray, " image"]:
        """Whether the likeliest family has several generators and is probable enough."""
        if self.families is None:
            return np.zeros(len(e), dtype=bool)
        families, threshold = self.families.families, self.families.naming_threshold(self.alpha)
        logs = families.log_probabilities(self.calibration.log_probabilities(e))
        likeliest = likeliest_families(families.names, np.bincount(families.index), logs, threshold)
        return np.array([one.enough for one in likeliest], dtype=bool)

    def _family_columns(self, e: Embeddings, named: Float64[np.ndarray, " image"]) -> Columns:
        if self.families is None:
            return {}
        families = self.families.families
        logs = families.log_probabilities(self.calibration.log_probabilities(e))
        levels = set_levels(self.calibration.p_values(e, self.detector), self.alpha)
        sets, own = self.families.prediction_sets(logs, levels), families.index[e.targets]
        right = (logs.argmax(axis=1) == own).astype(np.float64)
        return {
            "family_right": named * right,
            "family_wrong": named * (1 - right),
            "family_coverage": sets[np.arange(len(e)), own].astype(np.float64),
            "family_set_size": sets.sum(axis=1).astype(np.float64),
        }


def rates(
    columns: Mapping[str, Float64[np.ndarray, "_"]], weights: Sequence[Weights] | None
) -> dict[str, Float64[np.ndarray, "resample"]]:
    """Mean of each column, for each row of the weights of these images; NaN where all are 0."""
    n = len(next(iter(columns.values())))
    own = np.ones((1, n)) if weights is None else weights[0]
    total = own.sum(axis=1)
    total = np.where(total > 0, total, np.nan)
    return {name: own @ column / total for name, column in columns.items()}


KNOWN_FIGURES = (
    "false_alarms",
    "outside",
    "named_right",
    "named_wrong",
    "unsure",
    "coverage",
    "covered",
    "set_size",
    "ece_before",
    "ece_after",
    "cllr",
    "min_cllr",
)
"""Figures of known images: those of `Rule.known_columns`; ECE of the logits as they are and at the
temperature; Cllr in bits, the mean over generators."""


FAMILY_FIGURES = ("family_right", "family_wrong", "family_coverage", "family_set_size")
"""Further figures of known images where generators have families."""


@dataclass(frozen=True)
class AnswerSummary:
    """Verdicts and prediction sets at one false-alarm rate.

    Attributes:
        alpha: that rate: how many images of known generators may be called unknown.
        detector: that decides.
        known: figures of `KNOWN_FIGURES`, and those of families where a run has some, over test
            images of known generators.
        real: the same over test photographs, where a class is of photographs; else empty.
        unknown: by unknown generator, fractions called `unknown`, `outside`, `known`, `family` and
            `unsure`.
    """

    alpha: float
    detector: str
    known: dict[str, Summary]
    unknown: dict[str, dict[str, Summary]]
    real: dict[str, Summary] = field(default_factory=dict)

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON; `sd` and `interval` repeat the layout of the values."""
        return {"alpha": self.alpha, "detector": self.detector, **layout(self._nested)}

    def _nested(self, pick: Callable[[Summary], Any]) -> dict[str, Any]:
        generators = {name: picked(row, pick) for name, row in self.unknown.items()}
        found = {"known": picked(self.known, pick), "unknown": generators}
        return found | ({"real": picked(self.real, pick)} if self.real else {})


def summarise_answers(
    trials: Sequence[Sequence[Trial]], detector: str, alpha: float, real: Sequence[str] = ()
) -> AnswerSummary | None:
    """Verdicts over seeds, each seed being the mean of its folds.

    Args:
        trials: by seed, then by fold; the folds of all seeds are the same.
        detector: name of the one that decides, which every trial has fitted.
        alpha: false-alarm rate, in (0, 1).
        real: classes of photographs.

    Returns:
        The summary; None where a validation fold has a single prompt group, as it cannot
        calibrate.
    """
    if any(len(set(one.val.groups.tolist())) < 2 for folds in trials for one in folds):
        return None
    rows = [[_Answers.of(one, detector, alpha, real) for one in folds] for folds in trials]
    sets = [groups for one in rows[0] for groups in one.groups]
    found = over_seeds([_measure(folds) for folds in rows], sets)
    costs = {
        key: Summary(tuple(float(np.mean([one.costs[key] for one in folds])) for folds in rows))
        for key in rows[0][0].costs
    }
    known = by_metric(found) | costs
    generators = sorted({name for one in rows[0] for name in one.unknown})
    return AnswerSummary(
        alpha,
        detector,
        {key: known[key] for key in (*KNOWN_FIGURES, *FAMILY_FIGURES) if key in known},
        {name: by_metric(found, name) for name in generators},
        by_metric(found, PHOTOGRAPHS),
    )


@dataclass(frozen=True)
class _Answers:
    """Verdicts of one trial: columns of the test images, and of each unknown generator.

    `real` marks the test images that are photographs.
    """

    known: Columns
    real: Bool[np.ndarray, "test"]
    costs: dict[str, float]
    unknown: dict[str, Columns]
    groups: list[np.ndarray]

    @classmethod
    def of(cls, trial: Trial, name: str, alpha: float, real: Sequence[str]) -> _Answers:
        rule = Rule.of(trial, next(d for d in trial.detectors if d.name == name), alpha)
        test, parts = trial.test, _by_generator(trial.unknown)
        return cls(
            rule.known_columns(test),
            np.isin(test.labels, real),
            _costs(rule.calibration, test),
            {n: rule.verdicts(e) for n, e in parts.items()},
            [test.groups, *(part.groups for part in parts.values())],
        )

    def values(self, weights: list[Weights] | None) -> Values:
        """Rates by generator ("" for the known); takes its own weights off the list."""

        def own() -> list[Weights] | None:
            return None if weights is None else [weights.pop(0)]

        test = own()
        found = {("", key): value for key, value in rates(self.known, test).items()}
        if self.real.any():
            part = None if test is None else [test[0] * self.real]
            columns = self.known if part else {k: v[self.real] for k, v in self.known.items()}
            found |= {(PHOTOGRAPHS, key): value for key, value in rates(columns, part).items()}
        for name, columns in self.unknown.items():
            found |= {(name, key): value for key, value in rates(columns, own()).items()}
        return found


def _measure(folds: Sequence[_Answers]) -> Measure[Key]:
    """The mean of the folds that have a figure."""

    def measure(weights: Sequence[Weights] | None) -> Values:
        left = None if weights is None else list(weights)
        tables = [one.values(left) for one in folds]
        keys = dict.fromkeys(key for table in tables for key in table)
        return {key: np.mean([t[key] for t in tables if key in t], axis=0) for key in keys}

    return measure


def _by_generator(unknown: Embeddings | None) -> dict[str, Embeddings]:
    if unknown is None:
        return {}
    names = np.unique(unknown.labels).tolist()
    return {name: unknown.take(unknown.labels == name) for name in names}


def _costs(calibration: Calibration, test: Embeddings) -> dict[str, float]:
    costs = np.array(list(ratio_costs(calibration.ratios, test, calibration.temperature).values()))
    return {
        "ece_before": top_label_error(test, 1.0),
        "ece_after": top_label_error(test, calibration.temperature),
        "cllr": float(costs[:, 0].mean()),
        "min_cllr": float(costs[:, 1].mean()),
    }
