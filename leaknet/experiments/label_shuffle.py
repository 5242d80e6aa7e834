"""The label-shuffle control: runs that were trained on permuted labels.

Labels are permuted within the training and the validation fold; the test fold keeps its own.
A run on such labels may not attribute test images better than chance. Chance is not exactly
.5 for one run: a network maps all images of one generator to much the same place, and whether
that place is right by luck is decided once per generator, not once per image. So the figure is
set against its own null distribution, in which the *names* of the classes are permuted.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float, Float64

from leaknet.data.embeddings import Embeddings
from leaknet.evaluation.closed_set import summarise_closed
from leaknet.evaluation.summary import Summary
from leaknet.metrics import roc
from leaknet.metrics.closed_set import log_odds

DRAWS = 10_000


@dataclass(frozen=True)
class ShuffleSummary:
    """Runs on shuffled labels, evaluated on the test fold.

    Attributes:
        macro_auc: over seeds, with its interval over images.
        top1: likewise.
        chance: central 95 % of the mean macro AUC if names meant nothing.
    """

    macro_auc: Summary
    top1: Summary
    chance: tuple[float, float]

    @property
    def passed(self) -> bool:
        """Whether the mean does not lie above the range of chance."""
        return self.macro_auc.value <= self.chance[1]

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {
            "macro_auc": self.macro_auc.value,
            "top1": self.top1.value,
            "sd": {"macro_auc": self.macro_auc.sd, "top1": self.top1.sd},
            "interval": {"macro_auc": self.macro_auc.interval, "top1": self.top1.interval},
            "chance": self.chance,
            "passed": self.passed,
            "seeds": list(self.macro_auc.seeds),
        }


def summarise_shuffled(tests: Sequence[Embeddings]) -> ShuffleSummary:
    """Summarise runs on shuffled labels, one test fold a seed."""
    closed = summarise_closed(tests).metrics
    return ShuffleSummary(closed["macro_auc"], closed["top1"], chance_range(tests))


def chance_range(tests: Sequence[Embeddings], *, seed: int = 0) -> tuple[float, float]:
    """2.5 and 97.5 percentiles of the mean macro AUC when each run's names are permuted."""
    rng = np.random.default_rng(seed)
    means = np.zeros(DRAWS)
    for test in tests:
        areas = cross_areas(test)
        count = len(areas)
        names = np.argsort(rng.random((DRAWS, count)), axis=1)
        means += areas[np.arange(count), names].mean(axis=1) / len(tests)
    low, high = np.percentile(means, (2.5, 97.5))
    return float(low), float(high)


def cross_areas(test: Embeddings) -> Float64[np.ndarray, "class class"]:
    """[i, j]: area of the odds of class j for the images of class i against the others.

    Its diagonal has the one-vs-rest areas. Classes that the fold lacks are left out.
    """
    odds: Float[np.ndarray, "n class"] = log_odds(test.logits)
    present = np.unique(test.targets)
    return np.array(
        [[_area(odds[:, j], test.targets == i) for j in present.tolist()] for i in present.tolist()]
    )


def _area(odds: Float64[np.ndarray, "n"], own: np.ndarray) -> float:
    return float(roc(odds[own], odds[~own]).auroc()[0])
