"""The figures of merit as a reader meets them: name, unit, meaning, and what guessing gets."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

NARROW = "\u202f"
MISSING = "–"


@dataclass(frozen=True)
class Measure:
    """One figure of merit.

    Attributes:
        key: in metrics.json.
        name: as a heading.
        meaning: one sentence.
        percent: whether it is printed as a percentage rather than as a plain number.
        chance: what guessing gets, where that is a constant.
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
    """A measured value in [0, 1] with the ends of its 95 % interval, where it has one."""

    value: float | None
    ends: tuple[float, float] | None = None

    @classmethod
    def of(cls, group: Mapping[str, Any], key: str) -> Figure:
        """The figure `key` of a group of metrics.json, whose intervals lie under `interval`."""
        return cls(group.get(key), pair(group.get("interval", {}).get(key)))


CLOSED = (
    Measure("top1", "Top-1", "Share of the images whose generator is named right.", percent=True),
    Measure(
        "balanced",
        "Balanced",
        "The same, averaged over the generators, so that each counts alike.",
        percent=True,
    ),
    Measure(
        "macro_auc",
        "Macro AUC",
        "How well each generator's images are ranked above all others', averaged over the "
        "generators: 1 is perfect.",
        chance=0.5,
    ),
    Measure(
        "ece",
        "ECE",
        "Expected calibration error: how far the stated probability is from the share that is "
        "right. 0 is perfect.",
    ),
)

OPEN = (
    Measure(
        "auroc",
        "AUROC",
        "Chance that a known image gets a higher score than an unknown one: 1 is perfect.",
        chance=0.5,
    ),
    Measure(
        "fpr95",
        "FPR@95",
        "Share of the unknown images accepted where 95 % of the known ones are: 0 is perfect.",
        percent=True,
        chance=0.95,
    ),
    Measure(
        "eer",
        "EER",
        "The error where as many known images are rejected as unknown ones accepted: 0 is perfect.",
        percent=True,
        chance=0.5,
    ),
    Measure("aupr", "AUPR", "Average precision of the alarm “unknown”; depends on the mix."),
    Measure("ovl", "OVL", "Overlap of the two score distributions: 0 is perfect.", chance=1.0),
    Measure(
        "oscr",
        "OSCR",
        "Known images both accepted and named right, over the unknown accepted: area, at most "
        "the top-1.",
    ),
    Measure(
        "ccr5",
        "CCR@5",
        "Share of the known images accepted and named right where at most 5 % of the unknown "
        "are accepted.",
        percent=True,
    ),
)


def percent(value: float | None) -> str:
    """A share as a percentage, one decimal; a dash where there is none."""
    return MISSING if value is None else f"{100 * value:.1f}{NARROW}%"


def whole_percent(value: float) -> str:
    """A round share as a percentage."""
    return f"{100 * value:g}{NARROW}%"


def plain(value: float | None) -> str:
    """A value in [0, 1] with three decimals; a dash where there is none."""
    return MISSING if value is None else f"{value:.3f}"


def finite(value: float) -> float | None:
    """The value, or None where it is not a number."""
    return value if math.isfinite(value) else None


def pair(ends: Sequence[float | None] | None) -> tuple[float, float] | None:
    """The two ends of an interval, if both exist."""
    if not ends:
        return None
    low, high = ends
    return None if low is None or high is None else (low, high)


def interval_text(measure: Measure, figure: Figure) -> str:
    """The interval as text, without its unit where that is said once; empty if there is none."""
    if figure.ends is None:
        return ""
    low, high = figure.ends
    if measure.percent:
        return f"{100 * low:.1f}–{100 * high:.1f}{NARROW}%"
    return f"{low:.3f}–{high:.3f}"


def against_chance(figure: Figure, chance: float) -> str:
    """In words, how a figure for which more is better stands to guessing."""
    if figure.value is None:
        return "could not be computed"
    if figure.ends is None:
        return "without an interval, so nothing says whether that differs from guessing"
    low, high = figure.ends
    if low > chance:
        return "better than guessing"
    if high < chance:
        return "worse than guessing"
    return "no better than guessing, as far as these images can tell"
