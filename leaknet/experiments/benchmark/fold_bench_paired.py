"""How far a method is behind ours, and whether that could be chance: on the same test images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Float64

from leaknet.experiments.benchmark.fold_bench_trial import PeerTrial
from leaknet.experiments.benchmark.tables import Behind, BenchRow
from leaknet.metrics.closed_set import correct
from leaknet.metrics.paired_tests import sign_flip_p

OURS = "ours"


@dataclass(frozen=True)
class _Answers:
    """Share of seeds that attributed each test image right, and the images' prompt groups."""

    right: Float64[np.ndarray, "image"]
    groups: np.ndarray


def with_behind(
    rows: Sequence[BenchRow], trials: Mapping[str, Sequence[PeerTrial]]
) -> list[BenchRow]:
    """The rows with what separates each from ours, where both were judged.

    Args:
        rows: of any methods and steps.
        trials: of each method that ran, one a seed.
    """
    if OURS not in trials:
        return list(rows)
    return [_with_behind(row, trials) for row in rows]


def _with_behind(row: BenchRow, trials: Mapping[str, Sequence[PeerTrial]]) -> BenchRow:
    if row.method == OURS or row.method not in trials:
        return row
    ours, theirs = (_answers(trials[name], row.step) for name in (OURS, row.method))
    gain = ours.right - theirs.right
    return replace(row, behind=Behind(float(gain.mean()), sign_flip_p(gain, ours.groups)))


def _answers(trials: Sequence[PeerTrial], step: int) -> _Answers:
    tests = [trial.steps[step].select("test") for trial in trials]
    right = [correct(test.logits, test.targets).astype(np.float64) for test in tests]
    return _Answers(np.mean(right, axis=0), tests[0].groups)
