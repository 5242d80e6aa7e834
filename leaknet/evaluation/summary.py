"""A metric over training seeds: mean, spread over seeds, interval over images.

The spread is the sample standard deviation over seeds on the same images. The interval is that of
the mean over seeds with respect to the images: prompt groups are drawn with replacement, every
seed is evaluated on the same draw. Neither contains the other, so both are reported. A single run
is the case of one seed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
from jaxtyping import Float64, Shaped

from leaknet.metrics.bootstrap import RESAMPLES, K, Measure, Weights, bootstrap_p, ends, resample

__all__ = ["Key", "Measure", "PairedDifference", "Summary", "Values", "Weights", "over_seeds"]

Key = tuple[str, str]
"""The group that a metric is of ("" for all images), and the metric."""
Values = dict[Key, Float64[np.ndarray, "resample"]]
G = TypeVar("G")


@dataclass(frozen=True)
class Summary:
    """One metric over seeds.

    Attributes:
        seeds: its value under each seed.
        interval: 95 % interval of the mean; None where a set of images has one prompt group.
    """

    seeds: tuple[float, ...]
    interval: tuple[float, float] | None = None

    @property
    def value(self) -> float:
        """Mean over seeds."""
        return float(np.mean(self.seeds))

    @property
    def sd(self) -> float | None:
        """Sample standard deviation over seeds; None for a single seed."""
        return float(np.std(self.seeds, ddof=1)) if len(self.seeds) > 1 else None


@dataclass(frozen=True)
class PairedDifference(Summary):
    """One metric minus another's, seed by seed on the same images and resamples.

    Attributes:
        p: two-sided p value that there is none; None where there is no interval.
    """

    p: float | None = None


def over_seeds(
    measures: Sequence[Measure[K]],
    groups: Sequence[Shaped[np.ndarray, "_"]],
    *,
    resamples: int = RESAMPLES,
) -> dict[K, Summary]:
    """Summarise the metrics of several seeds on the same images.

    Args:
        measures: one a seed.
        groups: prompt group of every image, one array for each set that the measures weigh.
        resamples: of the bootstrap.
    """
    return {
        key: Summary(seeds, None if drawn is None else ends(drawn))
        for key, (seeds, drawn) in _both(measures, groups, resamples).items()
    }


def differences_over_seeds(
    ours: Sequence[Measure[K]],
    theirs: Sequence[Measure[K]],
    groups: Sequence[Shaped[np.ndarray, "_"]],
    *,
    resamples: int = RESAMPLES,
) -> dict[K, PairedDifference]:
    """Summarise `ours` minus `theirs`, pair by pair; arguments as `over_seeds`."""

    def minus(a: Measure[K], b: Measure[K]) -> Measure[K]:
        def measure(weights: Sequence[Weights] | None) -> Mapping[K, np.ndarray]:
            mine, other = a(weights), b(weights)
            return {key: mine[key] - other[key] for key in mine}

        return measure

    pairs = [minus(a, b) for a, b in zip(ours, theirs, strict=True)]
    return {
        key: PairedDifference(seeds)
        if drawn is None
        else PairedDifference(seeds, ends(drawn), bootstrap_p(drawn))
        for key, (seeds, drawn) in _both(pairs, groups, resamples).items()
    }


def by_metric(found: Mapping[Key, Summary], group: str = "") -> dict[str, Summary]:
    """The metrics of one group, by name."""
    return {metric: summary for (of, metric), summary in found.items() if of == group}


def picked(metrics: Mapping[str, Summary], pick: Callable[[Summary], G]) -> dict[str, G]:
    """One property of every metric."""
    return {name: pick(summary) for name, summary in metrics.items()}


def layout(nested: Callable[[Callable[[Summary], Any]], dict[str, Any]]) -> dict[str, Any]:
    """Plain values for JSON: the values, then `sd` and `interval`, which repeat their layout."""
    return {
        **nested(lambda summary: summary.value),
        "sd": nested(lambda summary: summary.sd),
        "interval": nested(lambda summary: summary.interval),
    }


def _both(
    measures: Sequence[Measure[K]], groups: Sequence[Shaped[np.ndarray, "_"]], resamples: int
) -> dict[K, tuple[tuple[float, ...], np.ndarray | None]]:
    """Values under each seed, and means over seeds under the resamples, where there are any."""

    def mean(weights: Sequence[Weights] | None) -> dict[K, np.ndarray]:
        tables = [measure(weights) for measure in measures]
        return {key: np.mean([table[key] for table in tables], axis=0) for key in tables[0]}

    plain = [measure(None) for measure in measures]
    several = all(len(set(column.tolist())) > 1 for column in groups)
    drawn = resample(mean, groups, resamples=resamples) if several else {}
    return {
        key: (tuple(float(table[key][0]) for table in plain), drawn.get(key)) for key in plain[0]
    }
