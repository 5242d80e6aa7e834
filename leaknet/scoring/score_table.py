"""Raw scores of every scored image of a run, one row each, as CSV."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float, Shaped
from scipy.special import softmax

from leakcache.errors import RunError
from leaknet.data.embeddings import Embeddings
from leaknet.files import write_text

FILE = "scores.csv"
_FIXED = ("path", "label", "group", "fold", "predicted", "probability")


@dataclass(frozen=True)
class ScoreTable:
    """The columns of `scores.csv`.

    Attributes:
        paths, labels, folds, predicted: text, one per image.
        scores: by detector, higher = more like the known.
    """

    paths: Shaped[np.ndarray, " image"]
    labels: Shaped[np.ndarray, " image"]
    folds: Shaped[np.ndarray, " image"]
    predicted: Shaped[np.ndarray, " image"]
    scores: dict[str, Float[np.ndarray, " image"]]


def write_score_table(
    run: Path, rows: Embeddings, scores: Mapping[str, Float[np.ndarray, " image"]]
) -> None:
    """Write `scores.csv` into a run: prediction and raw scores of each image."""
    best = rows.logits.argmax(axis=1)
    probability = softmax(rows.logits.astype(np.float64), axis=1).max(axis=1)
    predicted = np.array(rows.classes)[best]
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([*_FIXED, *scores])
    columns = (rows.paths, rows.labels, rows.groups, rows.folds, predicted)
    for row, values in enumerate(zip(*columns, strict=True)):
        raw = [f"{column[row]:.6g}" for column in scores.values()]
        writer.writerow([*values, f"{probability[row]:.6f}", *raw])
    write_text(run / FILE, text.getvalue())


def read_score_table(run: Path) -> ScoreTable:
    """Read `scores.csv` of a run.

    Raises:
        RunError: the run has not been scored.
    """
    path = run / FILE
    if not path.is_file():
        raise RunError(f"{run}: has not been scored; run `leak score --run {run}` first")
    with path.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    names = [name for name in rows[0] if name not in _FIXED]

    def column(name: str) -> np.ndarray:
        return np.array([row[name] for row in rows])

    return ScoreTable(
        column("path"),
        column("label"),
        column("fold"),
        column("predicted"),
        {name: column(name).astype(np.float64) for name in names},
    )
