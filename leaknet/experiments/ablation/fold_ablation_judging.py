"""From the runs of a row to its figures, and to their difference from another row's."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Float64

from leaknet.data.embeddings import Embeddings
from leaknet.evaluation.closed_set import summarise_closed
from leaknet.evaluation.fold_evaluation_detection import Detection
from leaknet.evaluation.open_set import summarise_open
from leaknet.evaluation.summary import Judge, Summary, Values, Weights, over_seeds
from leaknet.experiments.ablation.fold_ablation_measures import CLOSED
from leaknet.experiments.ablation.fold_ablation_scoring import Scoring
from leaknet.experiments.attention_modes import REPORTED, summarise_modes
from leaknet.experiments.trial import Trial
from leaknet.metrics import closed_values, roc
from leaknet.scoring.run_embeddings import CPU


@dataclass(frozen=True)
class Judged:
    """What the runs of a row say, one entry a seed.

    Attributes:
        tests: the test fold.
        scores: the class scores of its images.
        detections: known against unknown; empty without an open set.
    """

    tests: tuple[Embeddings, ...]
    scores: tuple[Float[np.ndarray, "n class"], ...]
    detections: tuple[Detection, ...]

    @classmethod
    def of(cls, trials: Sequence[Trial], scoring: Scoring) -> Judged:
        """Score the runs in one way."""
        logits = scoring.naming == "prototype"
        return cls(
            tuple(one.test for one in trials),
            tuple(
                one.test.logits if logits else one.scorers.naming.class_scores(one.test)
                for one in trials
            ),
            tuple(
                Detection.of(one.scorers.detectors[0], one.val, one.test, one.unknown)
                for one in trials
                if one.unknown is not None
            ),
        )

    def figures(self) -> tuple[dict[str, Summary], dict[str, Summary]]:
        """By key of `MEASURES`, and the area of each generator by its name."""
        closed = summarise_closed(self.tests, self.scores)
        found = {key: closed.metrics[key] for key in CLOSED}
        if self.detections:
            opened = summarise_open("", [[one] for one in self.detections])
            found["open_auroc"] = opened.pooled["auroc"]
        return found, closed.classes

    def minus(self, other: Judged) -> dict[str, Summary]:
        """Differences of `COMPARED`, seed by seed on the same images and resamples."""
        pairs = zip(self._pairs, other._pairs, strict=True)
        closed = [_closed_judge(mine, theirs) for mine, theirs in pairs]
        found = over_seeds(closed, [self.tests[0].groups])
        if self.detections and other.detections:
            ours, theirs = self.detections, other.detections
            judges = [_open_judge(a, b) for a, b in zip(ours, theirs, strict=True)]
            found |= over_seeds(judges, [ours[0].known_groups, ours[0].unknown_groups])
        return {metric: summary for (_, metric), summary in found.items()}

    @property
    def _pairs(self) -> list[tuple[Embeddings, np.ndarray]]:
        return list(zip(self.tests, self.scores, strict=True))


def mode_figures(trials: Sequence[Trial], mode: str) -> dict[str, Summary]:
    """One attention mode of Table 2: unknown generators, and its controls.

    Raises:
        ScoringError: the model has no gate, or too few prompt groups for a control.
    """
    gates = [trial.run.load_model(CPU).gate for trial in trials]
    unknown = [trial.unknown for trial in trials if trial.unknown is not None]
    found = summarise_modes([trial.known for trial in trials], unknown, gates, [mode])[mode]
    opened = found.unknown or {}
    figures = {f"open_{name}": opened[name] for name in REPORTED if name in opened}
    figures |= {f"control_{name}": found.control[name] for name in REPORTED}
    return figures | {"untrained_auroc": found.control_untrained["auroc"]}


def _closed_judge(
    mine: tuple[Embeddings, np.ndarray], other: tuple[Embeddings, np.ndarray]
) -> Judge:
    def values(one: tuple[Embeddings, np.ndarray], weights: Weights | None) -> Values:
        found = closed_values(one[1], one[0].targets, weights)
        return {("", key): found[key] for key in CLOSED}

    def judge(weights: Sequence[Weights] | None) -> Values:
        own = None if weights is None else weights[0]
        a, b = values(mine, own), values(other, own)
        return {key: a[key] - b[key] for key in a}

    return judge


def _open_judge(mine: Detection, other: Detection) -> Judge:
    def area(one: Detection, weights: Sequence[Weights]) -> Float64[np.ndarray, "resample"]:
        return roc(one.known, one.unknown, *weights).auroc()

    def judge(weights: Sequence[Weights] | None) -> Values:
        plain = [np.ones((1, len(part))) for part in (mine.known, mine.unknown)]
        given = plain if weights is None else weights
        return {("", "open_auroc"): area(mine, given) - area(other, given)}

    return judge
