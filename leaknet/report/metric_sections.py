"""Sections of figures: summary, known generators, unknown generators, families."""

from __future__ import annotations

import math
from collections import Counter
from typing import Any

import numpy as np
from scipy.special import softmax

from leaknet.calibration import Calibration, decide
from leaknet.calibration.conformal import FAR, depths
from leaknet.calibration.decision import KNOWN, OUTSIDE, UNKNOWN, UNSURE
from leaknet.data.embeddings import Embeddings
from leaknet.metrics.values import correct, log_odds, roc
from leaknet.model.pair_calibration import merges
from leaknet.report.metric_labels import (
    BY_KEY,
    CLOSED,
    OPEN,
    Figure,
    Measure,
    finite,
    measured_in,
    pair,
)
from leaknet.report.run_data import ALPHA, ScoredRun
from leaknet.report.svg import MAX_LEAVES, Axis, Curves, Frame, Html, dendrogram, roc_curves
from leaknet.scoring.families import Families, Relations, read_families, read_relations


def summary(run: ScoredRun) -> dict[str, Any]:
    """The figures that matter most, and the unknown generators that are not detected."""
    closed, opened = run.closed["prototype"], run.open
    tiles = [
        ("top1", closed, run.chance, "right generator"),
        ("macro_auc", closed, 0.5, "known generators ranked"),
    ]
    if opened is not None:
        tiles.append(("auroc", opened, 0.5, "unknown against known"))
        tiles.append(("fpr95", opened, 0.95, "lower is better"))
    return {
        "top1": Figure.of(closed, "top1"),
        "auroc": None if opened is None else Figure.of(opened, "auroc"),
        "fpr95": None if opened is None else Figure.of(opened, "fpr95"),
        "undetected": _undetected(run),
        "tiles": [
            (BY_KEY[key], Figure.of(group, key), chance, what) for key, group, chance, what in tiles
        ],
    }


def _undetected(run: ScoredRun) -> list[str]:
    """Unknown generators whose interval of the AUROC reaches down to one half."""
    if run.open is None or len(run.unknown) < 2:
        return []
    ends = {name: pair(run.open["interval"].get(name, {}).get("auroc")) for name in run.unknown}
    return [name for name, interval in ends.items() if interval and interval[0] <= 0.5]


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
        "curves": _closed_curves(run),
        "generators": _known_generators(run),
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


def _closed_curves(run: ScoredRun) -> Curves | None:
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


def _known_generators(run: ScoredRun) -> list[dict[str, Any]]:
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
        bins = _reliability_bins(probability, right)
        points = np.array([(mean, share) for _, _, mean, share in bins])
        marks += [frame.line(points[:, 0], points[:, 1], class_)]
        marks += [frame.dots(points, f"{class_} mark")]
    drawing = frame.draw("Fraction of right answers by stated probability", *marks)
    return drawing, bins


def _reliability_bins(
    probability: np.ndarray, right: np.ndarray
) -> list[tuple[str, int, float, float]]:
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
        "generators": _unknown_generators(run),
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


def _unknown_generators(run: ScoredRun) -> list[tuple[str, list[Figure]]]:
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


def families(run: ScoredRun) -> dict[str, Any] | None:
    """Everything that the section shows; None for a run without a tree."""
    found = read_relations(run.folder, run.metrics["model"])
    if found is None:
        return None
    named = read_families(run.folder, run.classes)
    rows = [] if named is None else _family_rows(run, named)
    return {"drawing": _tree(found, run.classes), "cut": found[1], "families": rows}


def _tree(found: Relations, classes: tuple[str, ...]) -> Html | None:
    matrix, cut = found
    if len(classes) > MAX_LEAVES or np.ptp(matrix) == 0:
        return None
    top, tree = float(matrix.max()), merges(matrix)
    lowest = min(top - float(tree[:, 2].max()), cut)
    axis = Axis.spanning("mean log10 likelihood ratio of one source", lowest, top)
    words = "Dendrogram of the known generators by likelihood ratio of one source"
    return dendrogram(tree, classes, axis, lambda height: top - height, words, cut)


def _family_rows(
    run: ScoredRun, named: Families
) -> list[tuple[str, str, float | None, float | None]]:
    """Name, members, and fractions of test images given their generator and their family."""
    rows = []
    for number, name in enumerate(named.names):
        members = named.members(number, run.classes)
        if len(members) > 1:
            rows.append((name, ", ".join(members), *_family_fractions(run, named, number)))
    return rows


def _family_fractions(
    run: ScoredRun, named: Families, number: int
) -> tuple[float | None, float | None]:
    test = None if run.embeddings is None else run.embeddings.select("test")
    if test is None or not (own := named.index[test.targets] == number).any():
        return None, None
    best = test.logits[own].argmax(axis=1)
    right = best == test.targets[own]
    likeliest = named.log_probabilities(test.logits[own].astype(np.float64)).argmax(axis=1)
    return float(right.mean()), float((likeliest == number).mean())
