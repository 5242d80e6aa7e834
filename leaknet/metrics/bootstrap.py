"""How sure is a figure? Bootstrap intervals and paired tests that respect prompt groups.

Images of one prompt resemble one another, so the unit that is drawn is the prompt group, with
all of its images, known and unknown. Groups are drawn with replacement within strata: those
that occur in the same sets of images (in the known alone, in one unknown generator alone, in
all of them, ...), so that no resample lacks a set. A drawn group becomes a weight on its images,
and the metrics are evaluated on weights.

Intervals are the 2.5 and 97.5 percentiles. They cover the choice of images, not that of the
training seed, and they lie too low for OVL, whose estimate noise lowers (too high for ECE).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Float64, Int, Shaped

from leakcache.errors import ScoringError
from leaknet.metrics.closed_set import closed_values
from leaknet.metrics.open_set import LOWER_IS_BETTER, METRICS, open_values

RESAMPLES = 1000
# Weights held at once: 16 MB.
_BLOCK = 2_000_000

Values = Mapping[str, Float64[np.ndarray, "resample"]]


@dataclass(frozen=True)
class Interval:
    """A metric's value on the images as they are, and its 95 % interval."""

    value: float
    low: float
    high: float

    @classmethod
    def of(cls, value: float, resampled: Float64[np.ndarray, "resample"]) -> Interval:
        """The percentile interval of the resampled values, those that do not exist left out."""
        low, high = np.nanpercentile(resampled, (2.5, 97.5))
        return cls(value, float(low), float(high))


@dataclass(frozen=True)
class OpenIntervals:
    """Intervals by metric, laid out as `leaknet.metrics.OpenReport`.

    The generators share each resample, so that `mean` has an interval of its own. `worst` is
    that of the generator which is worst on the images as they are.
    """

    pooled: Mapping[str, Interval]
    mean: Mapping[str, Interval]
    generators: Mapping[str, Mapping[str, Interval]]

    @property
    def worst(self) -> dict[str, Interval]:
        """For each metric, the interval of the generator that is worst by it."""
        return {name: self._worst(name) for name in METRICS}

    def as_dict(self) -> dict[str, Any]:
        """[low, high] under the keys of `OpenReport.as_dict`, for JSON."""
        nested = {"mean": self.mean, "worst": self.worst, **self.generators}
        return _ends(self.pooled) | {name: _ends(group) for name, group in nested.items()}

    def _worst(self, name: str) -> Interval:
        sign = -1 if name in LOWER_IS_BETTER else 1
        rows = [group[name] for group in self.generators.values()]
        return min(rows, key=lambda interval: sign * interval.value)


def closed_intervals(
    scores: Float[np.ndarray, "n class"],
    targets: Int[np.ndarray, "n"],
    groups: Shaped[np.ndarray, "n"],
    *,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> dict[str, Interval]:
    """Intervals of top1, balanced, macro_auc and ece. ScoringError for a single group."""
    plain = closed_values(scores, targets)
    drawn = _gather(
        closed_values(scores, targets, weights)
        for (weights,) in cluster_weights([groups], resamples=resamples, seed=seed)
    )
    return {name: Interval.of(float(plain[name][0]), drawn[name]) for name in plain}


def open_intervals(
    known: Float[np.ndarray, "known"],
    unknown: Float[np.ndarray, "unknown"],
    correct: Bool[np.ndarray, "known"],
    generators: Shaped[np.ndarray, "unknown"],
    known_groups: Shaped[np.ndarray, "known"],
    unknown_groups: Shaped[np.ndarray, "unknown"],
    *,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> OpenIntervals:
    """Intervals of everything in `OpenReport`.

    Raises ScoringError where the known or one generator consist of a single group.
    """
    names = np.unique(generators).tolist()
    parts = [generators == name for name in names]
    scores = [known, *[unknown[part] for part in parts]]
    groups = [known_groups, *[unknown_groups[part] for part in parts]]
    draws = cluster_weights(groups, resamples=resamples, seed=seed)
    plain = _open_table(scores, correct, [np.ones((1, len(s))) for s in scores])
    drawn = np.concatenate([_open_table(scores, correct, w) for w in draws], axis=2)
    rows = [
        {m: Interval.of(float(value[i, 0]), sample[i]) for i, m in enumerate(METRICS)}
        for value, sample in zip(plain, drawn, strict=True)
    ]
    return OpenIntervals(rows[0], rows[1], dict(zip(names, rows[2:], strict=True)))


def cluster_weights(
    groups: Sequence[Shaped[np.ndarray, "_"]], *, resamples: int = RESAMPLES, seed: int = 0
) -> Iterator[list[Float64[np.ndarray, "resample _"]]]:
    """Bootstrap weights of several sets of images, given the prompt group of each image.

    Yields blocks of resamples; in each, one table a set with the number of times that each image
    was drawn. The blocks together have `resamples` rows and depend on nothing but the groups
    and the seed. Raises ScoringError where a set has a single group.
    """
    names, codes = np.unique(np.concatenate(groups), return_inverse=True)
    sets = np.split(codes, np.cumsum([len(g) for g in groups])[:-1])
    member = np.stack([np.bincount(s, minlength=len(names)) > 0 for s in sets], axis=1)
    if (member.sum(axis=0) < 2).any():
        raise ScoringError(
            "an interval needs two prompt groups in every set of images: give the groups in an "
            "index file, or add images of other prompts"
        )
    _, strata = np.unique(member, axis=0, return_inverse=True)
    rng = np.random.default_rng(seed)
    for size in _blocks(resamples, len(codes)):
        drawn = np.zeros((size, len(names)))
        for stratum in range(strata.max() + 1):
            members = np.flatnonzero(strata == stratum)
            share = np.full(len(members), 1 / len(members))
            drawn[:, members] = rng.multinomial(len(members), share, size=size)
        yield [drawn[:, s] for s in sets]


def _open_table(
    scores: Sequence[Float[np.ndarray, "_"]],
    correct: Bool[np.ndarray, "known"],
    weights: Sequence[Float64[np.ndarray, "resample _"]],
) -> Float64[np.ndarray, "set metric resample"]:
    """All unknown images together, the mean over the generators, then each generator."""
    known, *unknown = scores
    own, *others = weights

    def row(part: np.ndarray, weight: np.ndarray) -> np.ndarray:
        values = open_values(known, part, correct, own, weight)
        return np.stack([values[m] for m in METRICS])

    each = [row(part, weight) for part, weight in zip(unknown, others, strict=True)]
    pooled = row(np.concatenate(unknown), np.concatenate(others, axis=1))
    return np.stack([pooled, np.mean(each, axis=0), *each])


def _blocks(resamples: int, width: int) -> Iterator[int]:
    size = max(1, _BLOCK // max(1, width))
    for start in range(0, resamples, size):
        yield min(size, resamples - start)


def _gather(blocks: Iterable[Values]) -> dict[str, Float64[np.ndarray, "resample"]]:
    parts = list(blocks)
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def _ends(intervals: Mapping[str, Interval]) -> dict[str, Any]:
    return {name: [interval.low, interval.high] for name, interval in intervals.items()}
