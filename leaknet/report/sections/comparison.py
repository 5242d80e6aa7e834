"""Several runs side by side: metrics, generators, and settings that differ."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from leaknet.report.metric_labels import CLOSED, OPEN, Figure, measured_in
from leaknet.report.run_data import ScoredRun
from leaknet.report.sections.provenance import setting_text, settings


def comparison(runs: Sequence[ScoredRun]) -> dict[str, Any]:
    """Everything that the page shows."""
    closed = [run.closed["prototype"] for run in runs]
    known = list(dict.fromkeys(name for run in runs for name in run.classes))
    unknown = list(dict.fromkeys(name for run in runs for name in run.unknown))
    opened = [run.open or {} for run in runs]
    return {
        "labels": _labels(runs),
        "same_known": _same(runs, "test"),
        "same_unknown": _same(runs, "open"),
        "closed": _rows(measured_in(CLOSED, *closed), closed),
        "open": _rows(OPEN, opened) if unknown else [],
        "known": [(name, [group["per_class_auc"].get(name) for group in closed]) for name in known],
        "unknown": [
            (name, [Figure((group.get(name) or {}).get("auroc")) for group in opened])
            for name in unknown
        ],
        "settings": _different(runs),
    }


def _labels(runs: Sequence[ScoredRun]) -> list[str]:
    """Names of the runs, with the parent folder where names repeat."""
    names = [run.name for run in runs]
    if len(set(names)) == len(names):
        return names
    return [f"{run.folder.resolve().parent.name}/{run.folder.resolve().name}" for run in runs]


def _rows(measures: Sequence[Any], groups: Sequence[dict[str, Any]]) -> list[tuple[Any, Any]]:
    return [(m, [Figure.of(group, m.key) for group in groups]) for m in measures]


def _same(runs: Sequence[ScoredRun], fold: str) -> bool:
    """Whether all runs were scored on the same images of a fold, by generator and path."""
    tables = [run.table for run in runs]
    first, *others = (np.stack([t.labels, t.paths])[:, t.folds == fold] for t in tables)
    return all(np.array_equal(first, other) for other in others)


def _different(runs: Sequence[ScoredRun]) -> list[tuple[str, list[str]]]:
    """Settings that are not the same in all runs; a dash where a run does not have one."""
    tables = [{"preset": run.metrics["preset"], **settings(run.record.config)} for run in runs]
    keys = list(dict.fromkeys(key for table in tables for key in table))
    rows = [(key, [setting_text(table.get(key)) for table in tables]) for key in keys]
    return [(key, values) for key, values in rows if len(set(values)) > 1]
