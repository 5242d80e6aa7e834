"""Summaries over seeds, with bootstrap intervals and paired tests by prompt group.

Images of one prompt resemble one another, so whole prompt groups are drawn, with all of their
images, known and unknown. Groups are drawn with replacement within strata: those that occur in
the same sets of images (in the known alone, in one unknown generator alone, in all of them, ...),
so that no resample lacks a set. A drawn group becomes a weight on its images.

Intervals are the 2.5 and 97.5 percentiles. They cover the choice of images, not the training
seed. They lie too low for OVL, whose estimate noise lowers, and too high for ECE.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
from jaxtyping import Float, Float64, Int, Shaped

from leakcache.errors import ScoringError
from leaknet.data.embeddings import Embeddings
from leaknet.metrics.values import closed_table, confusion

GroupSets = Sequence[Shaped[np.ndarray, "_"]]

RESAMPLES = 1000
# Weights held at once: 16 MB.
_BLOCK = 2_000_000

Weights = Float64[np.ndarray, "resample _"]
K = TypeVar("K", bound=Hashable)
Measure = Callable[[Sequence[Weights] | None], Mapping[K, Float64[np.ndarray, "resample"]]]
"""Metrics of some sets of images, one value for each row of weights; None weighs all equally."""


@dataclass(frozen=True)
class Interval:
    """A metric on the images as they are, and its 95 % interval."""

    value: float
    low: float
    high: float


def ends(resampled: Float64[np.ndarray, "resample"]) -> tuple[float, float]:
    """The 95 % percentile interval; values that do not exist are left out."""
    low, high = np.nanpercentile(resampled, (2.5, 97.5))
    return float(low), float(high)


def intervals(
    measure: Measure[K], groups: GroupSets, *, resamples: int = RESAMPLES, seed: int = 0
) -> dict[K, Interval]:
    """Every metric with its interval; arguments and errors as `resample`."""
    plain, drawn = measure(None), resample(measure, groups, resamples=resamples, seed=seed)
    return {key: Interval(float(plain[key][0]), *ends(drawn[key])) for key in drawn}


def resample(
    measure: Measure[K], groups: GroupSets, *, resamples: int = RESAMPLES, seed: int = 0
) -> dict[K, Float64[np.ndarray, "resample"]]:
    """Every metric under every resample.

    Args:
        measure: the metrics.
        groups: prompt group of every image, one array for each set that `measure` weighs.
        resamples: how many.
        seed: of the draw.

    Raises:
        ScoringError: a set has a single group.
    """
    blocks = [measure(w) for w in cluster_weights(groups, resamples=resamples, seed=seed)]
    return {key: np.concatenate([block[key] for block in blocks]) for key in blocks[0]}


def cluster_weights(
    groups: GroupSets, *, resamples: int = RESAMPLES, seed: int = 0
) -> Iterator[list[Weights]]:
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
            even = np.full(len(members), 1 / len(members))
            drawn[:, members] = rng.multinomial(len(members), even, size=size)
        yield [drawn[:, s] for s in sets]


def _blocks(resamples: int, width: int) -> Iterator[int]:
    size = max(1, _BLOCK // max(1, width))
    for start in range(0, resamples, size):
        yield min(size, resamples - start)


PERMUTATIONS = 10_000


def sign_flip_p(
    differences: Float64[np.ndarray, "n"],
    groups: Shaped[np.ndarray, "n"],
    *,
    permutations: int = PERMUTATIONS,
    seed: int = 0,
) -> float:
    """Two-sided p value of a mean paired difference: the signs of whole groups are flipped.

    Exact if the two sides are exchangeable within a group. All sign patterns are tried where there
    are at most `permutations` of them; otherwise that many are drawn.

    Raises:
        ScoringError: there are no images.
    """
    if not len(differences):
        raise ScoringError("there are no images that both runs have scored")
    _, codes = np.unique(groups, return_inverse=True)
    sums = np.bincount(codes, weights=differences)
    sums = sums[sums != 0]
    if len(sums) < 2:
        return 1.0
    # Importing scipy.stats costs a second, which scoring need not pay.
    from scipy.stats import permutation_test

    found = permutation_test(
        (sums,),
        np.sum,
        permutation_type="samples",
        vectorized=True,
        n_resamples=permutations,
        batch=max(1, 2_000_000 // len(sums)),
        rng=np.random.default_rng(seed),
    )
    return float(found.pvalue)


def bootstrap_p(resampled: Float64[np.ndarray, "resample"]) -> float:
    """Two-sided p value that a difference is 0: the resamples on its far side, doubled."""
    tail = min(int((resampled <= 0).sum()), int((resampled >= 0).sum()))
    return min(1.0, 2 * (1 + tail) / (1 + len(resampled)))


__all__ = ["Key", "Measure", "PairedDifference", "Summary", "Values", "Weights", "over_seeds"]

Key = tuple[str, str]
"""The group that a metric is of ("" for all images), and the metric."""
Values = dict[Key, Float64[np.ndarray, "resample"]]
G = TypeVar("G")


@dataclass(frozen=True)
class Summary:
    """One metric over seeds.

    The spread is the sample standard deviation over seeds on the same images. The interval is that
    of the mean over seeds with respect to the images: prompt groups are drawn with replacement,
    every seed is evaluated on the same draw. Neither contains the other, so both are reported. A
    single run is the case of one seed.

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
    """Values under each seed, and means over seeds under the resamples, where there are any.

    A metric that some seed lacks, as one of families where its run has none, is left out.
    """
    plain = [measure(None) for measure in measures]
    keys = [key for key in plain[0] if all(key in table for table in plain)]

    def mean(weights: Sequence[Weights] | None) -> dict[K, np.ndarray]:
        tables = [measure(weights) for measure in measures]
        return {key: np.mean([table[key] for table in tables], axis=0) for key in keys}

    several = all(len(set(column.tolist())) > 1 for column in groups)
    drawn = resample(mean, groups, resamples=resamples) if several else {}
    return {key: (tuple(float(table[key][0]) for table in plain), drawn.get(key)) for key in keys}


_CLASS = "class"


@dataclass(frozen=True)
class ClosedSummary:
    """Class scores on one fold.

    Attributes:
        metrics: those of `leaknet.metrics.closed_values`.
        per_class_auc: one-vs-rest area of each class that the fold holds.
        confusion: images by true class (row) and class of the highest score, summed over seeds.
        classes: the known generators.
    """

    metrics: dict[str, Summary]
    per_class_auc: dict[str, Summary]
    confusion: Int[np.ndarray, "class class"]
    classes: tuple[str, ...]

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON; `sd` and `interval` repeat the layout of the values."""
        counts = {"confusion": self.confusion.tolist(), "classes": list(self.classes)}
        return layout(self.nested) | counts

    def nested(self, pick: Callable[[Summary], Any]) -> dict[str, Any]:
        """One property of every figure; None for the area of a class that the fold lacks."""
        areas = dict.fromkeys(self.classes) | picked(self.per_class_auc, pick)
        return picked(self.metrics, pick) | {"per_class_auc": areas}


def summarise_closed(
    folds: Sequence[Embeddings], scores: Sequence[Float[np.ndarray, "n class"]] | None = None
) -> ClosedSummary:
    """Summarise class scores of one fold over seeds.

    Args:
        folds: the fold under each seed; the images are the same.
        scores: the class scores under each seed; None for the logits.

    Raises:
        ScoringError: the fold is empty or of one class, or a score is NaN.
    """
    if not len(folds[0]):
        raise ScoringError("a closed fold holds no images; see `leak data index` for the folds")
    scores = [fold.logits for fold in folds] if scores is None else scores
    targets, names = folds[0].targets, folds[0].classes
    present = np.unique(targets).tolist()

    def measure(one: Float[np.ndarray, "n class"]) -> Measure[tuple[str, str]]:
        def values(weights: Sequence[Weights] | None) -> Values:
            table, areas = closed_table(one, targets, None if weights is None else weights[0])
            own = {(_CLASS, names[c]): areas[:, c] for c in present}
            return {("", metric): value for metric, value in table.items()} | own

        return values

    found = over_seeds([measure(one) for one in scores], [folds[0].groups])
    return ClosedSummary(
        by_metric(found),
        by_metric(found, _CLASS),
        np.sum([confusion(one, targets) for one in scores], axis=0),
        names,
    )
