"""A figure over several training seeds: its mean, its spread, and its interval over images.

The spread is the sample standard deviation over seeds, the images being the same. The
interval is that of the mean over seeds with respect to the images: prompt groups are drawn
with replacement, every seed is judged on the same draw, and the 2.5 and 97.5 percentiles of
the means are taken. Neither contains the other, so both are reported.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64, Shaped

from leaknet.metrics.bootstrap import RESAMPLES, cluster_weights

Weights = Float64[np.ndarray, "resample _"]
Key = tuple[str, str]
"""Whom a figure speaks of ("" for all), and which metric it is."""
Values = dict[Key, Float64[np.ndarray, "resample"]]
Judge = Callable[[Sequence[Weights] | None], Values]
"""Metrics of one seed, one value for each row of weights; None for the images as they are."""


@dataclass(frozen=True)
class Summary:
    """One metric over seeds.

    Attributes:
        seeds: its value under each seed.
        interval: 95 % interval of the mean; None where a set of images has one prompt group.
    """

    seeds: tuple[float, ...]
    interval: tuple[float, float] | None

    @property
    def value(self) -> float:
        """Mean over seeds."""
        return float(np.mean(self.seeds))

    @property
    def sd(self) -> float | None:
        """Sample standard deviation over seeds; None for a single seed."""
        return float(np.std(self.seeds, ddof=1)) if len(self.seeds) > 1 else None


def over_seeds(
    judges: Sequence[Judge],
    groups: Sequence[Shaped[np.ndarray, "_"]],
    *,
    resamples: int = RESAMPLES,
) -> dict[Key, Summary]:
    """Sum up the metrics of several seeds, all judged on the same images.

    Args:
        judges: one a seed.
        groups: prompt group of every image, one array for each set that the judges weigh.
        resamples: of the bootstrap.
    """
    plain = [judge(None) for judge in judges]
    drawn = _drawn(judges, groups, resamples) if _several(groups) else {}
    return {
        key: Summary(tuple(float(values[key][0]) for values in plain), _ends(drawn.get(key)))
        for key in plain[0]
    }


def _drawn(
    judges: Sequence[Judge], groups: Sequence[Shaped[np.ndarray, "_"]], resamples: int
) -> dict[Key, Float64[np.ndarray, "resample"]]:
    """Means over seeds under the resamples."""
    blocks: list[Mapping[Key, np.ndarray]] = []
    for weights in cluster_weights(groups, resamples=resamples):
        tables = [judge(weights) for judge in judges]
        blocks.append({key: np.mean([t[key] for t in tables], axis=0) for key in tables[0]})
    return {key: np.concatenate([block[key] for block in blocks]) for key in blocks[0]}


def _ends(drawn: Float64[np.ndarray, "resample"] | None) -> tuple[float, float] | None:
    if drawn is None:
        return None
    low, high = np.nanpercentile(drawn, (2.5, 97.5))
    return float(low), float(high)


def _several(groups: Sequence[Shaped[np.ndarray, "_"]]) -> bool:
    return all(len(set(column.tolist())) > 1 for column in groups)
