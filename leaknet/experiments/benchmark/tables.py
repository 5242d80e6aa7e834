"""The rows of a bench, and their layout as JSON."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from leaknet.evaluation.summary import Summary
from leaknet.experiments.benchmark.fold_bench_published import PUBLISHED

METRICS = ("top1", "macro_auc", "open_auroc", "open_mean", "open_worst")
"""`open_auroc`: all unknown images together; mean and worst: over unknown generators."""


@dataclass(frozen=True)
class Behind:
    """What separates a method from ours on the same test images.

    Attributes:
        top1: ours minus its own, the mean over seeds.
        p: two-sided, the signs of whole prompt groups being flipped.
    """

    top1: float
    p: float


@dataclass(frozen=True)
class BenchRow:
    """One method at one step.

    Attributes:
        method: its name.
        step: of degradation, 0 to 3.
        figures: by `METRICS`, those that there are.
        parameters: of the method; None where it could not be built.
        seconds: of fitting and embedding, the mean over seeds; None where it could not run.
        reason: why figures are missing; empty where none is.
        behind: how far it is behind ours; None for ours, and where either is missing.
    """

    method: str
    step: int
    figures: dict[str, Summary]
    parameters: int | None
    seconds: float | None
    reason: str = ""
    behind: Behind | None = None

    @property
    def published(self) -> float | None:
        """The paper's macro AUC of this row, on WILD."""
        return PUBLISHED[self.method][self.step] if self.method in PUBLISHED else None

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON; `sd`, `interval` and `seeds` repeat the layout of the figures."""
        return {
            "method": self.method,
            "step": self.step,
            **{name: self._value(name) for name in METRICS},
            "parameters": self.parameters,
            "seconds": self.seconds,
            "reason": self.reason,
            "published_macro_auc": self.published,
            "behind_ours": None if self.behind is None else vars(self.behind),
            "sd": self._each(lambda one: one.sd),
            "interval": self._each(lambda one: one.interval),
            "seeds": self._each(lambda one: list(one.seeds)),
        }

    def _value(self, name: str) -> float | None:
        return self.figures[name].value if name in self.figures else None

    def _each(self, pick: Callable[[Summary], Any]) -> dict[str, Any]:
        return {name: pick(one) for name, one in self.figures.items()}


@dataclass(frozen=True)
class BenchResult:
    """All rows so far.

    Attributes:
        rows: by method in order, and within it by step.
        facts: images by fold, classes, seeds, epochs, limit, detector: what all rows share.
    """

    rows: tuple[BenchRow, ...]
    facts: dict[str, Any]

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {**self.facts, "rows": [row.as_dict() for row in self.rows]}
