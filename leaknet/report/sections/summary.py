"""The head of the page: questions, answers and chance level."""

from __future__ import annotations

from typing import Any

from leaknet.report.metric_labels import BY_KEY, Figure, pair
from leaknet.report.run_data import ScoredRun


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
