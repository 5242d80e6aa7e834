"""Known generators: metrics of both scorers, confusion, ROC, each generator, calibration."""

from __future__ import annotations

from typing import Any

import numpy as np
from scipy.special import softmax

from leaknet.metrics.closed_set import correct, log_odds
from leaknet.metrics.roc import roc
from leaknet.report.html import Html
from leaknet.report.metric_labels import CLOSED, Figure, Measure, finite, measured_in
from leaknet.report.run_data import ScoredRun
from leaknet.report.sections.curves import Curves, roc_curves
from leaknet.report.svg import Axis, Frame

BINS = 10
_SCORERS = {
    "prototype": ("Prototypes", "test images"),
    "mahalanobis": ("Mahalanobis distance", "test images"),
    "validation": ("Prototypes", "validation images"),
}


def closed_set(run: ScoredRun) -> dict[str, Any]:
    """Everything that the section shows."""
    measures = measured_in(CLOSED, *run.closed.values())
    return {
        "measures": measures,
        "scorers": [
            (*_SCORERS[key], [(m, Figure.of(group, m.key), _chance(run, m)) for m in measures])
            for key, group in run.closed.items()
        ],
        "confusion": confusion(run.closed["prototype"]),
        "confusion_mahalanobis": confusion(run.closed["mahalanobis"]),
        "curves": _curves(run),
        "generators": _generators(run),
        "calibration": _calibration(run),
        "reliability": _reliability(run),
    }


def _chance(run: ScoredRun, measure: Measure) -> float | None:
    if measure.key == "top1":
        return run.chance
    present = int((np.array(run.closed["prototype"]["confusion"]).sum(axis=1) > 0).sum())
    return 1 / present if measure.key == "balanced" else measure.chance


def confusion(group: dict[str, Any]) -> list[tuple[str, list[tuple[int, int, str]]]]:
    """By true generator: the count, total and named generator of each cell."""
    classes = group["classes"]
    return [
        (name, [(count, sum(row), other) for count, other in zip(row, classes, strict=True)])
        for name, row in zip(classes, group["confusion"], strict=True)
    ]


def _curves(run: ScoredRun) -> Curves | None:
    """ROC of each known generator against all others, on the test images."""
    if run.embeddings is None:
        return None
    test = run.embeddings.select("test")
    odds, curves = log_odds(test.logits), {}
    for c, name in enumerate(test.classes):
        own = test.targets == c
        if own.any() and not own.all():
            curves[name] = roc(odds[own, c], odds[~own, c])
    areas = {name: float(run.closed["prototype"]["per_class_auc"][name] or 0) for name in curves}
    axes = "other generators' images above", "own images above"
    return roc_curves(curves, areas, axes, "ROC curve of each known generator against the others")


def _generators(run: ScoredRun) -> list[dict[str, Any]]:
    """One row a generator, the largest AUC first."""
    group, other = run.closed["prototype"], run.closed["mahalanobis"]
    rows = []
    for index, name in enumerate(group["classes"]):
        counts = group["confusion"]
        own, made = counts[index][index], sum(counts[index])
        named = sum(row[index] for row in counts)
        wrong = [0 if i == index else count for i, count in enumerate(counts[index])]
        most = max(wrong)
        rows.append(
            {
                "name": name,
                "images": made,
                "auc": group["per_class_auc"][name],
                "auc_mahalanobis": other["per_class_auc"][name],
                "recall": own / made if made else None,
                "precision": own / named if named else None,
                "mistaken": f"{group['classes'][wrong.index(most)]} ({most})" if most else "",
            }
        )
    return sorted(rows, key=lambda row: -(row["auc"] or 0))


def _calibration(run: ScoredRun) -> dict[str, Any] | None:
    if run.calibration is None:
        return None
    facts = run.calibration.facts
    return {
        "temperature": run.calibration.temperature,
        **{key: finite(facts[key]) for key in ("ece_before", "ece_after", "cllr", "min_cllr")},
    }


def _reliability(run: ScoredRun) -> tuple[Html, list[tuple[str, int, float, float]]] | None:
    """Fraction right by stated probability on the test images, and the bins as rows."""
    if run.calibration is None or run.embeddings is None:
        return None
    test = run.embeddings.select("test")
    right = correct(test.logits, test.targets)
    frame = Frame(
        Axis.fraction("stated probability"), Axis.fraction("fraction right"), width=400, height=330
    )
    marks: list[Html | None] = [frame.line([0, 1], [0, 1], "chance")]
    raw = softmax(test.logits.astype(np.float64), axis=1).max(axis=1)
    calibrated = np.exp(run.calibration.log_probabilities(test)).max(axis=1)
    bins: list[tuple[str, int, float, float]] = []
    for probability, class_ in ((raw, "c1"), (calibrated, "c0")):
        bins = _bins(probability, right)
        points = np.array([(mean, share) for _, _, mean, share in bins])
        marks += [frame.line(points[:, 0], points[:, 1], class_)]
        marks += [frame.dots(points, f"{class_} mark")]
    drawing = frame.draw("Fraction of right answers by stated probability", *marks)
    return drawing, bins


def _bins(probability: np.ndarray, right: np.ndarray) -> list[tuple[str, int, float, float]]:
    """Range, images, mean probability and fraction right of each bin that holds images."""
    index = np.minimum((probability * BINS).astype(int), BINS - 1)
    return [
        (
            f"{b / BINS:.1f}–{(b + 1) / BINS:.1f}",
            int((index == b).sum()),
            float(probability[index == b].mean()),
            float(right[index == b].mean()),
        )
        for b in np.unique(index).tolist()
    ]
