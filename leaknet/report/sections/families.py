"""Families of related generators: their tree, their members, and how often the family is right."""

from __future__ import annotations

from typing import Any

import numpy as np

from leaknet.calibration.families import Families, read_families
from leaknet.model.pair_calibration import merges
from leaknet.report.dendrogram import MAX_LEAVES, dendrogram
from leaknet.report.html import Html
from leaknet.report.run_data import ScoredRun
from leaknet.report.svg import Axis
from leaknet.scoring.relations import Relations, read_relations


def families(run: ScoredRun) -> dict[str, Any] | None:
    """Everything that the section shows; None for a run without a tree."""
    found = read_relations(run.folder, run.metrics["model"])
    if found is None:
        return None
    named = read_families(run.folder, run.classes)
    rows = [] if named is None else _rows(run, named)
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


def _rows(run: ScoredRun, named: Families) -> list[tuple[str, str, float | None, float | None]]:
    """Name, members, and fractions of test images given their generator and their family."""
    rows = []
    for number, name in enumerate(named.names):
        members = named.members(number, run.classes)
        if len(members) > 1:
            rows.append((name, ", ".join(members), *_fractions(run, named, number)))
    return rows


def _fractions(run: ScoredRun, named: Families, number: int) -> tuple[float | None, float | None]:
    test = None if run.embeddings is None else run.embeddings.select("test")
    if test is None or not (own := named.index[test.targets] == number).any():
        return None, None
    best = test.logits[own].argmax(axis=1)
    right = best == test.targets[own]
    likeliest = named.log_probabilities(test.logits[own].astype(np.float64)).argmax(axis=1)
    return float(right.mean()), float((likeliest == number).mean())
