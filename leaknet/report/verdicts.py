"""What `leak score IMAGE` would have answered for the images that the run was judged on."""

from __future__ import annotations

from collections import Counter

import numpy as np

from leaknet.calibration import Calibration, conformal_p_values, decide
from leaknet.calibration.decision import KNOWN, UNKNOWN, UNSURE
from leaknet.calibration.halves import cut_in_halves
from leaknet.embeddings import Embeddings
from leaknet.report.markup import Html, join
from leaknet.report.measures import MISSING, percent, whole_percent
from leaknet.report.parts import cell, code, counted, paragraph, row_name, table
from leaknet.report.scored_run import ScoredRun

ALPHA = 0.05
"""False-alarm rate of the answers shown: the default of `leak score`."""


def reference(run: ScoredRun) -> np.ndarray | None:
    """Scores of the calibrating half of the validation images; None where it is not known."""
    if run.embeddings is None:
        return None
    val = run.embeddings.select("val")
    if len(set(val.groups.tolist())) < 2:
        return None
    _, calibrating = cut_in_halves(val)
    return run.scores(run.detector, "val")[np.isin(val.hashes, calibrating.hashes)]


def threshold(run: ScoredRun) -> float | None:
    """Lowest score that is still called known at `ALPHA`; None with too few images for that."""
    scores = reference(run)
    if scores is None:
        return None
    accepted = np.sort(scores[conformal_p_values(scores, scores) > ALPHA])
    return float(accepted[0]) if 0 < len(accepted) < len(scores) else None


def called_unknown(run: ScoredRun, fold: str, generator: str | None = None) -> np.ndarray | None:
    """Whether each image of a fold or generator would be called unknown at `ALPHA`."""
    scores = reference(run)
    if scores is None:
        return None
    verdicts: np.ndarray = (
        conformal_p_values(scores, run.scores(run.detector, fold, generator)) <= ALPHA
    )
    return verdicts


def answer_table(run: ScoredRun) -> Html:
    """How many images of each set would have been named, left unsure or called unknown."""
    scores = reference(run)
    if run.embeddings is None or scores is None:
        return paragraph(
            "The run holds no embeddings of two or more validation prompts, on which the "
            "threshold of an answer would be set, so no answer can be given here."
        )
    calibration = Calibration.fit(run.embeddings, [])
    rows = [_row(run, calibration, "Known generators", "test", None)]
    rows += [_row(run, calibration, name, "open", name) for name in run.unknown]
    headings = ["Images of", "Images", "Named right", "Named wrong", "Unsure", "Called unknown"]
    return join(_introduction(calibration), table(headings, rows))


def _introduction(calibration: Calibration) -> Html:
    facts = calibration.as_dict(ALPHA)
    low, high = facts["false_alarms"]["given_this_calibration"]
    bound = facts["false_alarms"]["exchangeable_groups"]
    return paragraph(
        "Had these images been given to ",
        code("leak score IMAGE"),
        f" at its false-alarm rate of {whole_percent(ALPHA)}. The threshold comes from "
        f"{counted(facts['images'], 'validation image')} of known generators, kept aside for it "
        f"({counted(facts['groups'], 'prompt group')}). If new images of these generators are "
        f"like those, {whole_percent(ALPHA)} of them at most are called unknown on average over "
        f"such sets, or {percent(bound)} if only prompts are alike; with this one set, it may be "
        f"{percent(low)} to {percent(high)}. Unsure: several generators fit, or none does.",
    )


def _row(
    run: ScoredRun, calibration: Calibration, name: str, fold: str, generator: str | None
) -> list[Html]:
    verdicts = called_unknown(run, fold, generator)
    assert run.embeddings is not None
    assert verdicts is not None
    images = run.embeddings.select(fold)
    if generator is not None:
        images = images.take(images.labels == generator)
    total = len(verdicts)
    alarms = _share(int(verdicts.sum()), total)
    if len(images) < total:
        return [row_name(name), cell(str(total)), *(cell(MISSING) for _ in range(3)), alarms]
    found = _answers(run, calibration, images, generator)
    right = cell(MISSING) if generator else _share(found["right"], total)
    shares = [_share(found[key], total) for key in ("wrong", UNSURE)]
    return [row_name(name), cell(str(total)), right, *shares, alarms]


def _answers(
    run: ScoredRun, calibration: Calibration, images: Embeddings, generator: str | None
) -> Counter[str]:
    scores = reference(run)
    assert scores is not None
    fold = "test" if generator is None else "open"
    p_values = conformal_p_values(scores, run.scores(run.detector, fold, generator))
    members = calibration.prediction_sets(images, ALPHA)
    found: Counter[str] = Counter()
    for p, own, label in zip(p_values.tolist(), members, images.labels.tolist(), strict=True):
        names = tuple(np.array(run.classes)[own].tolist())
        decision = decide(p, names, ALPHA)
        if decision.verdict == KNOWN:
            found["right" if decision.generator == label else "wrong"] += 1
        else:
            found[UNKNOWN if decision.verdict == UNKNOWN else UNSURE] += 1
    return found


def _share(part: int, whole: int) -> Html:
    return cell(f"{part} ({percent(part / whole)})")
