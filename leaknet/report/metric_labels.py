"""Metrics as a reader meets them: name, unit, meaning, chance level, and values as text."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

NARROW = "\u202f"
MISSING = "–"
NO_SPREAD = "no spread"


@dataclass(frozen=True)
class Measure:
    """One metric.

    Attributes:
        key: in metrics.json.
        name: as a heading.
        meaning: one sentence.
        percent: print as a percentage, else as a plain number.
        chance: value of guessing, where that is a constant.
    """

    key: str
    name: str
    meaning: str
    percent: bool = False
    chance: float | None = None

    def show(self, value: float | None) -> str:
        """The value as text."""
        return percent(value) if self.percent else plain(value)


@dataclass(frozen=True)
class Figure:
    """A value in [0, 1] with the ends of its 95 % interval, where it has one."""

    value: float | None
    ends: tuple[float, float] | None = None

    @classmethod
    def of(cls, group: Mapping[str, Any], key: str) -> Figure:
        """The figure `key` of a group of metrics.json, whose intervals lie under `interval`."""
        return cls(group.get(key), pair((group.get("interval") or {}).get(key)))

    @property
    def no_spread(self) -> bool:
        """Whether all resamples gave one value, so that the interval bounds nothing."""
        return self.ends is not None and self.ends[0] == self.ends[1]


CLOSED = (
    Measure("top1", "Top-1", "Fraction of the images given their right generator.", percent=True),
    Measure(
        "top5",
        "Top-5",
        "Fraction of the images whose right generator is among the five of the highest scores; "
        "with more than ten generators.",
        percent=True,
    ),
    Measure(
        "balanced",
        "Balanced",
        "Mean of that fraction over the generators, so that each counts the same.",
        percent=True,
    ),
    Measure(
        "macro_auc",
        "Macro AUC",
        "Mean over the generators of the one-vs-rest area under the ROC curve; 1 is perfect.",
        chance=0.5,
    ),
    Measure(
        "ece",
        "ECE",
        "Expected calibration error: mean gap between stated probability and fraction right, "
        "before temperature scaling. 0 is perfect.",
    ),
)

OPEN = (
    Measure(
        "auroc",
        "AUROC",
        "Probability that a known image scores higher than an unknown one; 1 is perfect.",
        chance=0.5,
    ),
    Measure(
        "fpr95",
        "FPR@95",
        "Fraction of the unknown images accepted where 95 % of the known are; 0 is perfect.",
        percent=True,
        chance=0.95,
    ),
    Measure(
        "eer",
        "EER",
        "Error rate at which as many known images are rejected as unknown are accepted.",
        percent=True,
        chance=0.5,
    ),
    Measure("aupr", "AUPR", "Average precision of detecting the unknown; depends on the mix."),
    Measure("ovl", "OVL", "Overlap of the two score distributions; 0 is perfect.", chance=1.0),
    Measure(
        "oscr",
        "OSCR",
        "Area under the rate of known images accepted and rightly named, over the unknown "
        "accepted; at most the top-1.",
    ),
    Measure(
        "ccr5",
        "CCR@5",
        "Fraction of the known images accepted and rightly named where at most 5 % of the "
        "unknown are accepted.",
        percent=True,
    ),
)
VERDICTS = (
    Measure(
        "right", "Named right", "Fraction of the images given their right generator.", percent=True
    ),
    Measure(
        "wrong", "Named wrong", "Fraction of the images given another generator.", percent=True
    ),
    Measure(
        "family_right",
        "Family right",
        "Fraction of the images given the family of their generator.",
        percent=True,
    ),
    Measure(
        "family_wrong", "Family wrong", "Fraction of the images given another family.", percent=True
    ),
    Measure("unsure", "Unsure", "Fraction of the images without an answer.", percent=True),
    Measure(
        "unknown",
        "Called unknown",
        "Fraction of the images called unknown or outside the calibrated range.",
        percent=True,
    ),
    Measure(
        "coverage",
        "Coverage",
        "Fraction of the images whose prediction set holds the right generator.",
        percent=True,
    ),
    Measure(
        "covered",
        "Covered or unknown",
        "Fraction whose set holds it, or that are called unknown or outside the calibrated range.",
        percent=True,
    ),
    Measure("set_size", "Set size", "Generators in the prediction set, mean."),
)
BY_KEY = {measure.key: measure for measure in (*CLOSED, *OPEN)}


def measured_in(measures: Sequence[Measure], *groups: Mapping[str, Any]) -> tuple[Measure, ...]:
    """Those of the measures that a group of metrics.json has."""
    return tuple(m for m in measures if any(group.get(m.key) is not None for group in groups))


def percent(value: float | None) -> str:
    """A fraction as a percentage, one decimal; a dash where there is none."""
    return MISSING if value is None else f"{100 * value:.1f}{NARROW}%"


def whole_percent(value: float) -> str:
    """A round fraction as a percentage."""
    return f"{100 * value:g}{NARROW}%"


def plain(value: float | None) -> str:
    """A value with three decimals; a dash where there is none."""
    return MISSING if value is None else f"{value:.3f}"


def finite(value: float) -> float | None:
    """The value, or None where it is not a finite number."""
    return value if math.isfinite(value) else None


def pair(ends: Sequence[float | None] | None) -> tuple[float, float] | None:
    """The two ends of an interval, if both exist."""
    if not ends:
        return None
    low, high = ends
    return None if low is None or high is None else (low, high)


def interval_text(measure: Measure, figure: Figure) -> str:
    """The interval as text; empty if there is none."""
    if figure.ends is None:
        return ""
    if figure.no_spread:
        return NO_SPREAD
    low, high = figure.ends
    if measure.percent:
        return f"{100 * low:.1f}–{100 * high:.1f}{NARROW}%"
    return f"{low:.3f}–{high:.3f}"


def interval_words(measure: Measure, figure: Figure) -> str:
    """The interval in brackets for a sentence; empty if there is none."""
    if figure.ends is None:
        return ""
    if figure.no_spread:
        return " (no interval: all bootstrap resamples gave this value)"
    return f" (95{NARROW}% interval {interval_text(measure, figure)})"


def against_chance(figure: Figure, chance: float) -> str:
    """In words, how a figure for which more is better compares with guessing."""
    if figure.value is None:
        return "could not be computed"
    if figure.ends is None:
        return "no interval, so a difference from guessing cannot be tested"
    low, high = figure.ends
    if low > chance:
        return "better than guessing"
    if high < chance:
        return "worse than guessing"
    return "not distinguishable from guessing on these images"


def enumerate_words(names: Sequence[str]) -> str:
    """Names in a sentence: a, b and c."""
    if len(names) < 2:
        return "".join(names)
    return f"{', '.join(names[:-1])} and {names[-1]}"


def counted(count: int, singular: str, plural: str | None = None) -> str:
    """A number with its noun."""
    return f"{count:,} {singular if count == 1 else plural or singular + 's'}"
