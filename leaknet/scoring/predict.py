"""Answers for image files, with all raw scores."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Float

from leaknet.calibration import Calibration, Decision, conformal_p_values, decide, doubt, verbal
from leaknet.calibration.decision import blank
from leaknet.data.embeddings import Embeddings
from leaknet.detectors import Detector
from leaknet.model.inference import embed
from leaknet.model.protoleaknet import ProtoLeakNet
from leaknet.scoring.encode_files import (
    as_split,
    encode_files,
    encoding_of,
    load_encoder,
)
from leaknet.scoring.stability import VARIANTS, Stability, stability_of, variants_of

__all__ = ["ImageScore", "conformal_p_values", "predict", "score_files"]


@dataclass(frozen=True)
class ImageScore:
    """What is said of one file.

    Attributes:
        path: the file.
        reason: why it could not be scored; empty where it was, and all below is None where not.
        verdict: `known`, `unknown` or `unsure`, at the false-alarm rate that was asked for, or
            `outside`.
        answer: the same as text: `known: X`, `unknown generator`, `unsure` or `outside the
            calibrated range`.
        explanation: why, in words.
        generator: the likeliest known generator, whatever the verdict.
        probability: its calibrated probability, among the known generators only.
        known: whether the p-value exceeds the false-alarm rate.
        p_value: that the image comes from a known generator, by the deciding detector; small
            means unlike anything known.
        prediction_set: the generators that can't be excluded, likeliest first.
        verbal: the likelihood ratio of `generator` in words.
        log10_lr: by generator, log10 of the likelihood ratio against another known one.
        probabilities: by generator, calibrated.
        scores: raw score by detector, higher = more like the known; the first decides.
        stability: answers after mild changes of the image; None where that was not asked for.
    """

    path: str
    reason: str = ""
    verdict: str | None = None
    answer: str | None = None
    explanation: str | None = None
    generator: str | None = None
    probability: float | None = None
    known: bool | None = None
    p_value: float | None = None
    prediction_set: tuple[str, ...] | None = None
    verbal: str | None = None
    log10_lr: dict[str, float] | None = None
    probabilities: dict[str, float] | None = None
    scores: dict[str, float] | None = None
    stability: Stability | None = None

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        stability = self.stability.as_dict() if self.stability else None
        return asdict(self) | {"stability": stability}


@dataclass(frozen=True)
class _Scores:
    """Scores of embedded images, one row each; the deciding detector's p-values."""

    probabilities: Float[np.ndarray, "image class"]
    log10_ratios: Float[np.ndarray, "image class"]
    sets: Bool[np.ndarray, "image class"]
    p_values: Float[np.ndarray, " image"]
    scores: dict[str, Float[np.ndarray, " image"]]


def predict(
    model: ProtoLeakNet,
    paths: Sequence[Path],
    detectors: Sequence[Detector],
    calibration: Calibration,
    *,
    alpha: float = 0.05,
    stability: bool = False,
    vae: str | None = None,
    device: str = "cpu",
) -> list[ImageScore]:
    """Score files by the same functions that scored the test fold; one result a file, in order.

    Args:
        model: a trained run's model.
        paths: image files.
        detectors: the run's; the first decides.
        calibration: the run's.
        alpha: rate at which images of known generators may be called unknown, in (0, 1).
        stability: also score the eight variants of `leaknet.scoring.stability`.
        vae: where the run's autoencoder lies now, if not where it was.
        device: where to encode.

    Raises:
        WeightsError: the autoencoder of the run is not on this machine.
        RunError: it is there with other weights.
    """
    encoding = encoding_of(model)
    changes = variants_of if stability else None
    encoder = load_encoder(encoding, vae, device)
    columns = model.config.columns(training=False)
    files = encode_files(encoder, encoding, paths, changes, columns=columns)
    usable = [row for row, file in enumerate(files) if not file.reason]
    results = [ImageScore(str(file.path), file.reason) for file in files]
    if not usable:
        return results
    embedded = embed(model, as_split([files[row] for row in usable], "open", "?"))
    scored = _score(embedded, detectors, calibration, alpha)
    tried = 1 + (len(VARIANTS) if stability else 0)
    for place, row in enumerate(usable):
        rows = range(place * tried, (place + 1) * tried)
        unanswered = blank(files[row].texture)
        results[row] = _result(str(paths[row]), scored, rows, model.classes, alpha, unanswered)
    return results


def score_files(
    model: ProtoLeakNet,
    found: Sequence[tuple[Path, str]],
    detectors: Sequence[Detector],
    calibration: Calibration,
    **options: Any,
) -> list[ImageScore]:
    """`predict` for what `find_images` found: what can't be an image is listed with its reason."""
    paths = [path for path, reason in found if not reason]
    scores = iter(predict(model, paths, detectors, calibration, **options))
    return [ImageScore(str(p), reason) if reason else next(scores) for p, reason in found]


def _score(
    e: Embeddings, detectors: Sequence[Detector], calibration: Calibration, alpha: float
) -> _Scores:
    return _Scores(
        np.exp(calibration.log_probabilities(e)),
        calibration.log10_ratios(e),
        calibration.prediction_sets(e, alpha),
        calibration.p_values(e, detectors[0]),
        {detector.name: detector.score_samples(e) for detector in detectors},
    )


def _result(
    path: str,
    scored: _Scores,
    rows: range,
    classes: tuple[str, ...],
    alpha: float,
    unanswered: Decision | None,
) -> ImageScore:
    """One image, whose variants follow it in `rows`; `unanswered` replaces its own answer."""
    decisions = [_decide(scored, row, classes, alpha) for row in rows]
    decision, stability = unanswered or decisions[0], None
    if len(decisions) > 1:
        stability = stability_of([item.answer for item in decisions])
        decision = doubt(decision, stability.changed, len(stability.variants))
    row = rows[0]
    best = int(scored.probabilities[row].argmax())
    p_value = float(scored.p_values[row])
    return ImageScore(
        path,
        verdict=decision.verdict,
        answer=decision.answer,
        explanation=decision.explanation,
        generator=classes[best],
        probability=float(scored.probabilities[row, best]),
        known=p_value > alpha,
        p_value=p_value,
        prediction_set=_members(scored, row, classes),
        verbal=verbal(float(scored.log10_ratios[row, best])),
        log10_lr=dict(zip(classes, scored.log10_ratios[row].tolist(), strict=True)),
        probabilities=dict(zip(classes, scored.probabilities[row].tolist(), strict=True)),
        scores={name: float(values[row]) for name, values in scored.scores.items()},
        stability=stability,
    )


def _decide(scored: _Scores, row: int, classes: tuple[str, ...], alpha: float) -> Decision:
    return decide(float(scored.p_values[row]), _members(scored, row, classes), alpha)


def _members(scored: _Scores, row: int, classes: tuple[str, ...]) -> tuple[str, ...]:
    """The prediction set, likeliest first."""
    order = np.argsort(-scored.probabilities[row], kind="stable").tolist()
    return tuple(classes[i] for i in order if scored.sets[row, i])
