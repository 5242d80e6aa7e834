"""What the run reads: its branches, what each is worth alone, and how noise steps are weighted."""

from __future__ import annotations

from typing import Any

import numpy as np

from leaknet.report.metric_labels import BY_KEY, Figure
from leaknet.report.run_data import ScoredRun

SLIGHT = 0.02
"""A smaller difference in weight is not worth a sentence."""
MEASURES = tuple(BY_KEY[key] for key in ("top1", "balanced", "macro_auc"))
NAMES = {"latents": "Noisy latents", "statistics": "Statistics"}


def branches(run: ScoredRun) -> dict[str, Any]:
    """Branches with their figures; the attention of a run that weights several noise steps."""
    found = run.metrics["branches"]
    several = len(run.record.config.branches) > 1
    return {
        "alone": _alone(run, found) if several else [],
        "held_out": found["held_out"],
        "weights": found["weights"],
        "measures": MEASURES,
        "attention": _attention(run),
    }


def _alone(run: ScoredRun, found: dict[str, Any]) -> list[tuple[str, float | None, list[Figure]]]:
    """Each branch alone with its weight, and both together, on the test images."""
    rows: list[tuple[str, float | None, dict[str, Any]]] = [
        (f"{NAMES[name]} alone", found["weights"][name], found[name])
        for name in run.record.config.branches
    ]
    return [
        (name, weight, [Figure.of(group, m.key) for m in MEASURES])
        for name, weight, group in (*rows, ("Both", None, run.closed["prototype"]))
    ]


def _attention(run: ScoredRun) -> dict[str, Any] | None:
    """Mean weight and middle 80 % of the images, by set of images and step."""
    branch, embeddings = run.latents, run.embeddings
    if branch is None or not branch.attention or len(branch.steps) < 2 or embeddings is None:
        return None
    test, unknown = embeddings.select("test"), embeddings.select("open")
    sets = [("All test images", test.attention)]
    sets += [(name, test.attention[test.labels == name]) for name in embeddings.classes]
    sets += [
        (f"{name} (unknown)", unknown.attention[unknown.labels == name])
        for name in np.unique(unknown.labels).tolist()
    ]
    mean = test.attention.mean(axis=0)
    uneven = float(np.abs(mean - 1 / len(branch.steps)).max()) >= SLIGHT
    return {
        "rows": [(name, _weights(values)) for name, values in sets if len(values)],
        "headings": [f"t = {step}" for step in branch.steps],
        "even": 1 / len(branch.steps),
        "heaviest": branch.steps[int(mean.argmax())] if uneven else None,
        "weight": float(mean.max()),
        "varies": float(test.attention.std(axis=0).max()) >= SLIGHT,
    }


def _weights(values: np.ndarray) -> list[Figure]:
    low, high = np.quantile(values, (0.1, 0.9), axis=0)
    means = values.mean(axis=0)
    ends = zip(means.tolist(), low.tolist(), high.tolist(), strict=True)
    return [Figure(mean, (a, b)) for mean, a, b in ends]
