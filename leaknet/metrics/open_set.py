"""Open set: are images of generators never trained on told from those of the known ones?

Scores follow one convention, higher = more like the known. The set of unknown images is
judged whole, and one generator at a time.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Float64, Int, Shaped

from leakcache.errors import ScoringError
from leaknet.metrics.roc import area, roc

# OVL: how much of two score distributions lies under both densities, from 0 to 1.
#
# The estimate is the overlap of two histograms whose bins each hold an equal share of the two
# sets together (every set counting one half). Bins made of ranks need no bandwidth or range,
# do not change under any increasing transformation of the score, and keep equal scores
# together. Their number is even, so that sets which do not meet overlap by exactly 0, and grows
# as the cube root of the smaller set. Sampling noise lowers the figure: two samples of 500 from
# one distribution give about .93, not 1.


def overlap(
    known: Float[np.ndarray, "known"],
    unknown: Float[np.ndarray, "unknown"],
    known_weights: Float64[np.ndarray, "resample known"] | None = None,
    unknown_weights: Float64[np.ndarray, "resample unknown"] | None = None,
) -> Float64[np.ndarray, "resample"]:
    """Sum over the bins of the smaller of the two shares, for each row of weights.

    The bins are those of the unweighted sets, so that resamples share them.
    """
    count = _even_cube_root(min(len(known), len(unknown)))
    shares = [
        _shares(scores, weights, _bins(scores, known, unknown, count), count)
        for scores, weights in ((known, known_weights), (unknown, unknown_weights))
    ]
    total: Float64[np.ndarray, "resample"] = np.minimum(*shares).sum(axis=1)
    return total


def _even_cube_root(n: int) -> int:
    return max(2, 2 * round(float(np.cbrt(n)) / 2))


def _bins(
    scores: Float[np.ndarray, "n"],
    known: Float[np.ndarray, "known"],
    unknown: Float[np.ndarray, "unknown"],
    count: int,
) -> Int[np.ndarray, "n"]:
    place = (_mid_rank(scores, known) + _mid_rank(scores, unknown)) / 2
    bins: Int[np.ndarray, "n"] = np.minimum((place * count).astype(np.int64), count - 1)
    return bins


def _mid_rank(
    scores: Float[np.ndarray, "n"], among: Float[np.ndarray, "m"]
) -> Float64[np.ndarray, "n"]:
    ordered = np.sort(among)
    below = np.searchsorted(ordered, scores, side="left")
    twice = below + np.searchsorted(ordered, scores, side="right")
    rank: Float64[np.ndarray, "n"] = twice / (2 * len(among))
    return rank


def _shares(
    scores: Float[np.ndarray, "n"],
    weights: Float64[np.ndarray, "resample n"] | None,
    bins: Int[np.ndarray, "n"],
    count: int,
) -> Float64[np.ndarray, "resample bin"]:
    weights = np.ones((1, len(scores))) if weights is None else weights
    held = weights @ (bins[:, None] == np.arange(count)).astype(np.float64)
    shares: Float64[np.ndarray, "resample bin"] = held / held.sum(axis=1, keepdims=True)
    return shares


LOWER_IS_BETTER = frozenset({"fpr95", "eer", "ovl"})


@dataclass(frozen=True)
class OpenScores:
    """How well one set of unknown images is told from the known; all in [0, 1].

    `auroc`: probability that a known image outscores an unknown one, a tie counting one half.
    `aupr`: average precision with the *unknown* as positives, the alarm a user acts on;
    `aupr_known`: the same with the known as positives. Both depend on the mix of the sets.
    `fpr95`: fraction of the unknown accepted at the highest threshold that accepts 95 % of the
    known. `eer`: where false acceptance and false rejection cross. `ovl`: overlap of the score
    densities (`leaknet.metrics.open_set`). `oscr`: area under the correct classification rate
    (known images accepted *and* given their right class, of all known) over the fraction of
    the unknown accepted (Dhamija et al. 2018); it can't exceed top-1 accuracy. `ccr1`, `ccr5`,
    `ccr10`: that rate where at most 1, 5 and 10 % of the unknown are accepted.
    """

    auroc: float
    aupr: float
    aupr_known: float
    fpr95: float
    eer: float
    ovl: float
    oscr: float
    ccr1: float
    ccr5: float
    ccr10: float


METRICS = tuple(field.name for field in fields(OpenScores))


@dataclass(frozen=True)
class OpenReport:
    """All unknown images together (`pooled`), and each unknown generator by itself."""

    pooled: OpenScores
    generators: Mapping[str, OpenScores]

    @property
    def mean(self) -> OpenScores:
        """Each metric's unweighted mean over the generators."""
        return self._over_generators(lambda name, values: float(np.mean(values)))

    @property
    def worst(self) -> OpenScores:
        """Each metric at the generator that is worst by that metric."""
        return self._over_generators(
            lambda name, values: max(values) if name in LOWER_IS_BETTER else min(values)
        )

    @property
    def worst_generator(self) -> str:
        """The generator of lowest AUROC."""
        return min(self.generators, key=lambda name: self.generators[name].auroc)

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON: pooled metrics, then `mean`, `worst` and every generator."""
        summary = asdict(self.pooled) | {"mean": asdict(self.mean), "worst": asdict(self.worst)}
        taken = sorted(summary.keys() & self.generators.keys())
        if taken:
            raise ScoringError(f"a generator cannot be called {taken[0]!r}: rename its folder")
        return summary | {name: asdict(scores) for name, scores in self.generators.items()}

    def _over_generators(self, reduce: Callable[[str, list[float]], float]) -> OpenScores:
        rows = list(self.generators.values())
        return OpenScores(**{m: reduce(m, [getattr(row, m) for row in rows]) for m in METRICS})


def open_report(
    known: Float[np.ndarray, "known"],
    unknown: Float[np.ndarray, "unknown"],
    correct: Bool[np.ndarray, "known"],
    generators: Shaped[np.ndarray, "unknown"],
) -> OpenReport:
    """Judge the scores of all unknown images, and of each generator named in `generators`.

    `correct` says which known images were given their right class. Raises ScoringError where
    a set is empty or a score is NaN.
    """
    names = np.unique(generators).tolist()
    return OpenReport(
        pooled=open_scores(known, unknown, correct),
        generators={n: open_scores(known, unknown[generators == n], correct) for n in names},
    )


def open_scores(
    known: Float[np.ndarray, "known"],
    unknown: Float[np.ndarray, "unknown"],
    correct: Bool[np.ndarray, "known"],
) -> OpenScores:
    """Judge the scores of one set of unknown images; errors as `open_report`."""
    values = open_values(known, unknown, correct)
    return OpenScores(**{name: float(value[0]) for name, value in values.items()})


def auroc(known: Float[np.ndarray, "known"], unknown: Float[np.ndarray, "unknown"]) -> float:
    """AUROC alone, for choices among settings; errors as `open_report`."""
    return float(roc(known, unknown).auroc()[0])


def open_values(
    known: Float[np.ndarray, "known"],
    unknown: Float[np.ndarray, "unknown"],
    correct: Bool[np.ndarray, "known"],
    known_weights: Float64[np.ndarray, "resample known"] | None = None,
    unknown_weights: Float64[np.ndarray, "resample unknown"] | None = None,
) -> dict[str, Float64[np.ndarray, "resample"]]:
    """The metrics of `OpenScores` by name, one value for each row of weights."""
    curve = roc(known, unknown, known_weights, unknown_weights)
    kept = np.ones((1, len(known))) if known_weights is None else known_weights
    ccr = roc(known, unknown, kept * correct, unknown_weights).known / curve.known[:, -1:]
    return {
        "auroc": curve.auroc(),
        "aupr": curve.average_precision_of_unknown(),
        "aupr_known": curve.average_precision(),
        "fpr95": curve.fpr_at_tpr(0.95),
        "eer": curve.eer(),
        "ovl": overlap(known, unknown, known_weights, unknown_weights),
        "oscr": area(curve.fpr, ccr),
        "ccr1": curve.at_fpr(ccr, 0.01),
        "ccr5": curve.at_fpr(ccr, 0.05),
        "ccr10": curve.at_fpr(ccr, 0.10),
    }
