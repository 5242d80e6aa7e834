"""A finding: one plain sentence with the figure and the cure, and how much it matters."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from leaknet.metrics.bootstrap import Interval

LEVELS = ("severe", "warning", "unsure", "note")
"""severe: a high score proves nothing until this is cured; warning: read every score beside it;
unsure: there are too few images to tell; note: looked at, nothing to cure."""


@dataclass(frozen=True)
class Finding:
    """One sentence. `control` is where it comes from, `level` one of `LEVELS`."""

    level: str
    control: str
    sentence: str


def by_severity(findings: Iterable[Finding]) -> tuple[Finding, ...]:
    """The gravest first, else in the given order."""
    return tuple(sorted(findings, key=lambda finding: LEVELS.index(finding.level)))


def percent(value: float) -> str:
    """0.9837 as `98.4 %`."""
    return f"{100 * value:.3g} %"


def area(interval: Interval) -> str:
    """A value with its interval: `0.77 [0.75-0.80]`."""
    return f"{interval.value:.2f} [{interval.low:.2f}-{interval.high:.2f}]"


def listing(names: Iterable[str], shown: int = 3) -> str:
    """`a, b, c and 4 more`."""
    names = list(names)
    more = len(names) - shown
    return ", ".join(names[:shown]) + (f" and {more} more" if more > 0 else "")


def counted(number: int, singular: str) -> str:
    """`1 image`, `2,000 images`."""
    return f"{number:,} {singular}" + "s" * (number != 1)
