"""What `leak score IMAGE` would have said of the images that the run was judged on."""

from __future__ import annotations

import numpy as np

from leaknet.predict import conformal_p_values
from leaknet.report.markup import Html, join
from leaknet.report.measures import percent, whole_percent
from leaknet.report.parts import cell, code, counted, paragraph, row_name, table
from leaknet.report.scored_run import ScoredRun

ALPHA = 0.05
"""False-alarm rate of the verdicts shown: the default of `leak score`."""


def threshold(run: ScoredRun) -> float | None:
    """Lowest score that is still called known at `ALPHA`; None with too few validation images."""
    reference = np.sort(run.scores(run.detector, "val"))
    accepted = reference[conformal_p_values(reference, reference) > ALPHA]
    return float(accepted[0]) if 0 < len(accepted) < len(reference) else None


def called_unknown(run: ScoredRun, fold: str, generator: str | None = None) -> np.ndarray:
    """Whether each image of a fold or generator would be called unknown at `ALPHA`."""
    reference = run.scores(run.detector, "val")
    scores = run.scores(run.detector, fold, generator)
    verdicts: np.ndarray = conformal_p_values(reference, scores) <= ALPHA
    return verdicts


def verdict_table(run: ScoredRun) -> Html:
    """How many images of each set would have been called unknown."""
    sets = [("Known generators", "false alarms", called_unknown(run, "test"))]
    sets += [(name, "", called_unknown(run, "open", name)) for name in run.unknown]
    rows = [
        [
            row_name(name, note),
            cell(str(len(verdicts))),
            cell(str(int(verdicts.sum()))),
            cell(percent(float(verdicts.mean()))),
        ]
        for name, note, verdicts in sets
    ]
    return join(
        paragraph(
            "Had these images been given to ",
            code("leak score IMAGE"),
            f" at its false-alarm rate of {whole_percent(ALPHA)}, whose threshold comes from "
            f"{counted(run.metrics['images']['val'], 'validation image')} of known generators:",
        ),
        table(["Images of", "Images", "Called unknown", "Share"], rows),
    )
