"""What `leak score IMAGE` would have answered for the images that the run was judged on."""

from __future__ import annotations

from collections import Counter

import numpy as np

from leaknet.calibration import Calibration, conformal_p_values, decide
from leaknet.calibration.decision import KNOWN, UNSURE
from leaknet.data.embeddings import Embeddings
from leaknet.report.fold_report_markup import Html, join
from leaknet.report.html import cell, code, counted, paragraph, row_name, table
from leaknet.report.metric_labels import MISSING, percent, whole_percent
from leaknet.report.run_data import ScoredRun

ALPHA = 0.05
"""False-alarm rate of the answers shown: the default of `leak score`."""
_NAMED = ("right", "wrong", UNSURE)


def threshold(run: ScoredRun) -> float | None:
    """Lowest score that is still called known at `ALPHA`; None with too few images for that."""
    scores = run.reference
    if scores is None:
        return None
    accepted = np.sort(scores[conformal_p_values(scores, scores) > ALPHA])
    return float(accepted[0]) if 0 < len(accepted) < len(scores) else None


def called_unknown(run: ScoredRun, fold: str, generator: str | None = None) -> np.ndarray | None:
    """Whether each image of a fold or generator would be called unknown at `ALPHA`."""
    p_values = _p_values(run, fold, generator)
    return None if p_values is None else p_values <= ALPHA


def _p_values(run: ScoredRun, fold: str, generator: str | None) -> np.ndarray | None:
    if run.reference is None:
        return None
    scores = run.scores(run.detector, fold, generator)
    p_values: np.ndarray = conformal_p_values(run.reference, scores)
    return p_values


def answer_table(run: ScoredRun) -> Html:
    """How many images of each set would have been named, left unsure or called unknown."""
    if run.calibration is None:
        return paragraph(
            "The run holds no embeddings of two or more validation prompts, on which the "
            "threshold of an answer would be set, so no answer can be given here."
        )
    rows = [_row(run, run.calibration, "Known generators", "test", None)]
    rows += [_row(run, run.calibration, name, "open", name) for name in run.unknown]
    headings = ["Images of", "Images", "Named right", "Named wrong", "Unsure", "Called unknown"]
    return join(_introduction(run.calibration), table(headings, rows))


def _introduction(calibration: Calibration) -> Html:
    facts = calibration.as_dict(ALPHA)
    low, high = facts["false_alarms"]["given_this_calibration"]
    bound = facts["false_alarms"]["exchangeable_groups"]
    return paragraph(
        "What ",
        code("leak score IMAGE"),
        f" would have said of these images at its false-alarm rate of {whole_percent(ALPHA)}. The "
        "threshold comes from "
        f"{counted(facts['images'], 'validation image')} of known generators, kept aside for it "
        f"({counted(facts['groups'], 'prompt group')}). If new images of these generators are "
        f"like those, {whole_percent(ALPHA)} of them at most are called unknown on average over "
        f"such sets, or {percent(bound)} if only prompts are alike; with this one set, it may be "
        f"{percent(low)} to {percent(high)}. Unsure: several generators fit, or none does.",
    )


def _row(
    run: ScoredRun, calibration: Calibration, name: str, fold: str, generator: str | None
) -> list[Html]:
    p_values = _p_values(run, fold, generator)
    assert run.embeddings is not None
    assert p_values is not None
    images = run.embeddings.select(fold)
    if generator is not None:
        images = images.take(images.labels == generator)
    total = len(p_values)
    found = _answers(calibration, images, p_values) if len(images) == total else None
    shares = [MISSING if found is None else _share(found[key], total) for key in _NAMED]
    if generator is not None:
        shares[0] = MISSING
    alarms = _share(int((p_values <= ALPHA).sum()), total)
    return [row_name(name), cell(str(total)), *(cell(text) for text in (*shares, alarms))]


def _answers(calibration: Calibration, images: Embeddings, p_values: np.ndarray) -> Counter[str]:
    """How often the answer is right, wrong, unsure or unknown."""
    members = calibration.prediction_sets(images, ALPHA)
    found: Counter[str] = Counter()
    for p, own, label in zip(p_values.tolist(), members, images.labels.tolist(), strict=True):
        names = tuple(np.array(calibration.classes)[own].tolist())
        decision = decide(p, names, ALPHA)
        named = "right" if decision.generator == label else "wrong"
        found[named if decision.verdict == KNOWN else decision.verdict] += 1
    return found


def _share(part: int, whole: int) -> str:
    return f"{part} ({percent(part / whole)})"
