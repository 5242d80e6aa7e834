"""Unknown generators: metrics, score distributions, ROC curves, answers, all detectors."""

from __future__ import annotations

import math
from collections import Counter
from typing import Any

import numpy as np

from leaknet.calibration import Calibration, decide
from leaknet.calibration.conformal import FAR, depths
from leaknet.calibration.decision import KNOWN, OUTSIDE, UNKNOWN, UNSURE
from leaknet.data.embeddings import Embeddings
from leaknet.metrics.roc import roc
from leaknet.report.html import Html
from leaknet.report.metric_labels import OPEN, Figure
from leaknet.report.run_data import ALPHA, ScoredRun
from leaknet.report.sections.curves import roc_curves
from leaknet.report.svg import Axis, Frame


def open_set(run: ScoredRun) -> dict[str, Any]:
    """Everything that the section shows; little without an open set."""
    if run.open is None:
        return {"measured": False}
    known = run.scores(run.detector, "test")
    curves = {name: roc(known, run.scores(run.detector, "open", name)) for name in run.unknown}
    areas = {name: run.area(name) for name in run.unknown}
    axes = "unknown images accepted", "known images accepted"
    return {
        "measured": True,
        "measures": OPEN,
        "generators": _generators(run),
        "histograms": [(name, _histogram(run, name, known)) for name in run.unknown],
        "images": len(known),
        "curves": roc_curves(curves, areas, axes, "ROC curve of each unknown generator"),
        "answers": _answer_rows(run),
        "guarantee": run.calibration.as_dict(ALPHA) if run.calibration else None,
        "detectors": [
            (name, [(m, Figure.of(group, m.key)) for m in OPEN[:-1]], group["worst"]["auroc"])
            for name, group in run.metrics["detectors"].items()
        ],
        "areas": {
            name: [group[generator]["auroc"] for generator in run.unknown]
            for name, group in run.metrics["detectors"].items()
        },
    }


def _generators(run: ScoredRun) -> list[tuple[str, list[Figure]]]:
    assert run.open is not None
    ends = run.open["interval"]
    groups = [("All together", run.open, ends)]
    if len(run.unknown) > 1:
        groups.append(("Mean over generators", run.open["mean"], ends.get("mean", {})))
        groups += [(n, run.open[n], ends.get(n, {})) for n in run.unknown]
    return [
        (name, [Figure.of({**group, "interval": own}, m.key) for m in OPEN])
        for name, group, own in groups
    ]


def _histogram(run: ScoredRun, name: str, known: np.ndarray) -> Html:
    unknown, limit = run.scores(run.detector, "open", name), run.threshold
    low, high = _range(known, unknown, limit)
    edges = np.linspace(low, high, _bins(len(unknown)) + 1)
    fractions = [_fractions(scores, edges) for scores in (known, unknown)]
    top = max(float(values.max()) for values in fractions)
    y = Axis.spanning("fraction of images", 0.0, top)
    frame = Frame(Axis.spanning("score", low, high), y)
    marks = [
        frame.filled_steps(edges, fractions[0], "fill known"),
        frame.filled_steps(edges, fractions[1], "fill unknown"),
    ]
    if limit is not None:
        marks += frame.vertical(limit, "unknown", "known")
    return frame.draw(f"Scores of known images and of {name}", *marks)


def _bins(images: int) -> int:
    """Few enough that most bins hold several images."""
    return min(30, max(8, round(2 * math.sqrt(images))))


def _range(known: np.ndarray, unknown: np.ndarray, limit: float | None) -> tuple[float, float]:
    """A range with the known in detail and the threshold within, however far a few images lie."""
    start, end = np.quantile(known, (0.01, 0.99))
    spread = end - start
    low, high = np.quantile(np.concatenate([known, unknown]), (0.01, 0.99))
    low, high = max(low, start - 4 * spread), min(high, end + 4 * spread)
    inside = low if limit is None else min(low, limit - 0.1 * (high - low))
    return float(inside), float(high)


def _fractions(scores: np.ndarray, edges: np.ndarray) -> np.ndarray:
    counts, _ = np.histogram(np.clip(scores, edges[0], edges[-1]), edges)
    fractions: np.ndarray = counts / len(scores)
    return fractions


def _answer_rows(run: ScoredRun) -> list[dict[str, Any]]:
    """How many images of each set `leak score IMAGE` names, leaves unsure or calls unknown."""
    if run.calibration is None:
        return []
    sets: list[tuple[str, str, str | None]] = [("Known generators", "test", None)]
    sets += [(name, "open", name) for name in run.unknown]
    return [_answers(run, run.calibration, *one) for one in sets]


def _answers(
    run: ScoredRun, calibration: Calibration, name: str, fold: str, generator: str | None
) -> dict[str, Any]:
    assert run.embeddings is not None
    p_values = run.p_values(fold, generator)
    assert p_values is not None
    images = run.embeddings.select(fold)
    if generator is not None:
        images = images.take(images.labels == generator)
    row: dict[str, Any] = {"name": name, "images": len(p_values), "known": generator is None}
    assert run.reference is not None
    deep = depths(run.reference, run.scores(run.detector, fold, generator))
    outside = (p_values <= max(ALPHA, calibration.smallest_p)) & (deep >= FAR)
    row[OUTSIDE] = int(outside.sum())
    row[UNKNOWN] = int(((p_values <= ALPHA) & ~outside).sum())
    found = _count(calibration, images, p_values, deep) if len(images) == len(p_values) else None
    for key in ("right", "wrong", UNSURE):
        row[key] = None if found is None else found[key]
    if generator is not None:
        row["right"] = None
    return row


def _count(
    calibration: Calibration, images: Embeddings, p_values: np.ndarray, deep: np.ndarray
) -> Counter[str]:
    """How often the answer is right, wrong, unsure or unknown."""
    logs = calibration.log_probabilities(images)
    enough = calibration.probable(images, ALPHA) & ~calibration.weak(images)
    names = np.array(calibration.classes)[logs.argmax(axis=1)]
    columns = (p_values.tolist(), deep.tolist(), enough, names.tolist(), images.labels.tolist())
    rows = zip(*columns, strict=True)
    found: Counter[str] = Counter()
    for p, depth, named, name, label in rows:
        generator = name if named else ""
        decision = decide(p, (), ALPHA, calibration.smallest_p, generator=generator, depth=depth)
        right = "right" if decision.generator == label else "wrong"
        found[right if decision.verdict == KNOWN else decision.verdict] += 1
    return found
