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
from leakcache.names import cell, from_cell
from leaknet.checksums import is_there, read_text
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
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\r\n")
    writer.writerow([*_FIXED, *scores])
    columns = (rows.paths, rows.labels, rows.groups, rows.folds, predicted)
    for row, values in enumerate(zip(*columns, strict=True)):
        raw = [f"{column[row]:.6g}" for column in scores.values()]
        texts = [cell(str(value)) for value in values]
        writer.writerow([*texts, f"{probability[row]:.6f}", *raw])
    write_text(run / FILE, text.getvalue())


def read_score_table(run: Path) -> ScoreTable:
    """Read `scores.csv` of a run.

    Raises:
        RunError: the run has not been scored, or the file was changed.
    """
    path = run / FILE
    if not is_there(path):
        raise RunError(f"{run}: has not been scored; run `leak score --run {run}` first")
    try:
        heading, *rows = csv.reader(io.StringIO(read_text(path), newline=""))
        columns = {name: np.array(values) for name, *values in zip(heading, *rows, strict=True)}
        names = [name for name in heading if name not in _FIXED]
        return ScoreTable(
            _restored(columns["path"]),
            _restored(columns["label"]),
            _restored(columns["fold"]),
            _restored(columns["predicted"]),
            {name: columns[name].astype(np.float64) for name in names},
        )
    except (OSError, ValueError, KeyError, csv.Error) as error:
        if isinstance(error, RunError):
            raise
        raise RunError(f"{path} cannot be read ({error}): run `leak score` again") from error


def _restored(cells: Shaped[np.ndarray, " image"]) -> Shaped[np.ndarray, " image"]:
    """Text that was written as cells."""
    return np.array([from_cell(text) for text in cells.tolist()])
