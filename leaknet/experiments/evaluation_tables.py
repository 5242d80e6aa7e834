"""The results of `leak evaluate` as tables, controls first."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from leaknet.experiments.answers import AnswerSummary
from leaknet.experiments.controls import (
    MODES,
    PUBLISHED,
    REPORTED,
    WARNING,
    RealSummary,
    ShuffleSummary,
)
from leaknet.experiments.evaluation import Evaluation, LeaveOut
from leaknet.experiments.tables import (
    LEGEND,
    NO_INTERVAL,
    Grid,
    cell,
    figure_row,
    write_table,
)
from leaknet.experiments.transfer import VERDICT_NAMES, TransferSummary
from leaknet.metrics.detection import OpenSummary
from leaknet.metrics.summary import ClosedSummary

CLOSED = {
    "top1": "top-1",
    "top5": "top-5",
    "balanced": "balanced",
    "macro_auc": "macro AUC",
    "ece": "ECE",
}
OPEN = {
    "auroc": "AUROC",
    "aupr": "AUPR",
    "fpr95": "FPR@95",
    "eer": "EER",
    "ovl": "OVL",
    "oscr": "OSCR",
}
TRANSFER = {
    "top1": "top-1",
    "top5": "top-5",
    "macro_auc": "macro AUC",
    "auroc": "AUROC, highest logit",
    "detector_auroc": "AUROC, detector",
}
SITUATION = {
    "top1": "top-1",
    "macro_auc": "macro AUC",
    "right": "named right",
    "wrong": "named wrong",
    "family_right": "family right",
    "family_wrong": "family wrong",
    "unsure": "unsure",
    "unknown": "unknown or outside",
    "coverage": "coverage",
    "covered": "covered or unknown",
    "set_size": "set size",
    "family_coverage": "coverage, families",
}
RATES = {
    "ccr1": "CCR@1%",
    "ccr5": "CCR@5%",
    "ccr10": "CCR@10%",
    "known_accepted": "known accepted",
    "unknown_accepted": "unknown accepted",
}


def evaluation_tables(result: Evaluation) -> list[Grid]:
    """All tables of an evaluation, controls first: they decide how the rest is read."""
    grids = [_audit(result.audit)] if result.audit else []
    if result.shuffle is not None:
        grids.append(_shuffle(result.shuffle))
    grids.append(_closed(result))
    reported = result.plan.reported
    if result.open:
        grids += _open("Open set: generators of other data", result.open, reported)
    if result.leave_out:
        grids += _leave_out(result.leave_out, reported)
    grids += _answers(result)
    for name, one in result.transfer.items():
        grids += _transfer(name, one)
    if result.answers and (result.transfer or result.answers.real):
        grids.append(_situations(result.transfer, result.closed["prototype"], result.answers))
    if result.modes:
        grids.append(_modes(result))
    if result.real:
        grids.append(_real(result.real))
    return grids


def _closed(result: Evaluation) -> Grid:
    columns = {key: CLOSED[key] for key in CLOSED if key in result.validation.metrics}
    rows = [
        figure_row(f"{name}, test", one.metrics, columns)
        for name, one in sorted(result.closed.items())
    ]
    rows.append(figure_row("prototype, validation", result.validation.metrics, columns))
    chance = 1 / len(result.classes)
    notes = (f"Guessing gives top-1 {chance:.3f} on equal classes and macro AUC .5.", LEGEND)
    plain = all(s.interval for one in result.closed.values() for s in one.metrics.values())
    return Grid(
        f"Closed set: which of {len(result.classes)} generators?",
        ("scorer, fold", *columns.values()),
        tuple(rows),
        notes if plain else (*notes, NO_INTERVAL),
    )


def _open(title: str, detectors: Mapping[str, OpenSummary], reported: str) -> list[Grid]:
    one = detectors[reported]
    groups = {"mean": one.mean, "worst": one.worst, **one.generators}
    notes = (
        LEGEND,
        f"worst: the generator that is worst by that metric ({one.worst_by('auroc')} by AUROC).",
    )
    figures = Grid(
        f"{title} ({reported})",
        ("unknown generator", *OPEN.values()),
        tuple(figure_row(name, metrics, OPEN) for name, metrics in groups.items()),
        notes if one.mean["auroc"].interval else (*notes, NO_INTERVAL),
    )
    rates = Grid(
        f"{title} ({reported}), rates",
        ("unknown generator", *RATES.values()),
        tuple(figure_row(name, metrics, RATES) for name, metrics in groups.items()),
        (
            "CCR@x: known images accepted and named right where at most x of the unknown are "
            "accepted. The last two: share accepted at the threshold that 95 % of the closed "
            "validation images reach, which is the one a user can set.",
        ),
    )
    more = [_detectors(title, detectors)] if len(detectors) > 1 else []
    return [figures, rates, *more]


def _detectors(title: str, detectors: Mapping[str, OpenSummary]) -> Grid:
    return Grid(
        f"{title}, all detectors",
        ("detector", "AUROC mean", "AUROC worst", "FPR@95 mean", "OSCR mean", "unknown accepted"),
        tuple(
            (
                name,
                cell(one.mean["auroc"]),
                cell(one.worst["auroc"]),
                cell(one.mean["fpr95"]),
                cell(one.mean["oscr"]),
                cell(one.mean["unknown_accepted"]),
            )
            for name, one in detectors.items()
        ),
        (
            "Taking the best row after the fact is a choice made on unknown images: compare rows "
            "with the reported one, which was fixed beforehand.",
        ),
    )


def _leave_out(left: LeaveOut, reported: str) -> list[Grid]:
    folds = Grid(
        "Leave-generators-out, by training",
        ("left out", "AUROC, all of them", "OSCR", "top-1 of the rest", "macro AUC of the rest"),
        tuple(
            (
                " + ".join(names),
                cell(found["auroc"]),
                cell(found["oscr"]),
                cell(closed.metrics["top1"]),
                cell(closed.metrics["macro_auc"]),
            )
            for names, found, closed in zip(
                left.folds, left.detectors[reported].folds, left.closed, strict=True
            )
        ),
    )
    return [*_open("Leave-generators-out", left.detectors, reported), folds]


def _answers(result: Evaluation) -> list[Grid]:
    left = result.leave_out.answers if result.leave_out else None
    found = {"": result.answers, ", generators left out": left}
    return [grid for where, one in found.items() if one for grid in _answer_grids(where, one)]


def _answer_grids(where: str, one: AnswerSummary) -> list[Grid]:
    title = f"Answers at a false-alarm rate of {one.alpha:g} ({one.detector}){where}"
    known = Grid(
        f"{title}: images of known generators",
        tuple(key.replace("_", " ") for key in one.known),
        (tuple(map(cell, one.known.values())),),
        (
            f"false alarms: called unknown or outside the calibrated range, {one.alpha:g} on "
            "average being promised; coverage: "
            f"the prediction set holds the right generator, {1 - one.alpha:g} being promised. "
            "Cllr in bits: 1 says nothing, min Cllr is what perfect calibration would leave.",
        ),
    )
    if not one.unknown:
        return [known]
    verdicts = ("unknown", "outside", "known", "family", "unsure")
    rows = tuple((name, *(cell(row[v]) for v in verdicts)) for name, row in one.unknown.items())
    unknown = Grid(
        f"{title}: images of unknown generators",
        ("generator", "unknown (right)", "outside the range", "named (wrong)", "family", "unsure"),
        rows,
    )
    return [known, unknown]


def _transfer(name: str, one: TransferSummary) -> list[Grid]:
    title = f"Transfer to {name}"
    sets = {f"{name} ({one.images} images)": one.other, "test images, same generators": one.test}
    closed = {key: TRANSFER[key] for key in TRANSFER if key in one.other}
    return [
        Grid(
            title,
            ("images", *closed.values()),
            tuple(figure_row(where, metrics, closed) for where, metrics in sets.items()),
            (
                f"{len(one.recall)} generators of both collections, attributed among all known "
                "ones; macro AUC over the shared ones. AUROC: known test images against "
                f"{name}, by the highest logit and by {one.detector}.",
                LEGEND,
            ),
        ),
        Grid(
            f"{title}: top-1 of each generator",
            ("generator", name, "test images"),
            tuple(figure_row(g, both, ("other", "test")) for g, both in one.recall.items()),
        ),
    ]


def _situations(
    transfer: Mapping[str, TransferSummary], closed: ClosedSummary, answers: AnswerSummary
) -> Grid:
    """Answers on the test images and in every other situation, of known generators."""
    own = {VERDICT_NAMES.get(key, key): one for key, one in answers.known.items()}
    sets = {"test images": {**closed.metrics, **own}}
    if answers.real:
        real = {VERDICT_NAMES.get(key, key): one for key, one in answers.real.items()}
        sets["test photographs"] = real
    sets |= {f"{name} ({one.images} images)": one.other for name, one in transfer.items()}
    columns = {key: SITUATION[key] for key in SITUATION if key in sets["test images"]}
    return Grid(
        f"Answers by situation, at a false-alarm rate of {answers.alpha:g} ({answers.detector})",
        ("images", *columns.values()),
        tuple(figure_row(where, metrics, columns) for where, metrics in sets.items()),
        (
            f"coverage: the prediction set holds the right generator; {1 - answers.alpha:g} is "
            "guaranteed on images like those of validation alone. Sets are wider the less an image "
            "is like them. covered or unknown: the set holds it, or the image is called unknown or "
            "outside the calibrated range.",
        ),
    )


def _modes(result: Evaluation) -> Grid:
    columns = {name: name for name in REPORTED}
    rows = []
    for mode in MODES:
        found = result.modes[mode]
        if found.unknown is not None:
            rows.append(figure_row(f"{mode}, open set", found.unknown, columns))
        rows.append(figure_row(f"{mode}, control", found.control, columns))
        if mode != "both_off":
            rows.append(
                figure_row(f"{mode}, control, untrained gate", found.control_untrained, columns)
            )
        published = (f"{value:.4g}" for value in PUBLISHED[mode])
        rows.append((f"{mode}, as published (WILD)", *published))
    return Grid(
        "Table 2: attention modes under KDE",
        ("mode, unknown images", "AUROC", "EER", "OVL"),
        tuple(rows),
        (WARNING, "Control: held-out images of the known generators in the open images' place."),
    )


def _real(real: RealSummary) -> Grid:
    rows = [(f"test, {name}", cell(one)) for name, one in real.known.items()]
    rows += [(f"unknown generators, {name}", cell(one)) for name, one in real.unknown.items()]
    title = f"Real ({', '.join(real.classes)}) or generated?"
    return Grid(title, ("images, metric", "value"), tuple(rows), (LEGEND,))


def _audit(audit: Mapping[str, Any]) -> Grid:
    """What `leaknet.audit.audit` found, in its own words."""
    return Grid(
        "Controls: what the files give away without any training",
        ("finding", "control", "level"),
        tuple((f["sentence"], f["control"], f["level"]) for f in audit["findings"]),
    )


def _shuffle(shuffle: ShuffleSummary) -> Grid:
    low, high = shuffle.chance
    verdict = (
        "As it must be: nothing was learnt from shuffled labels."
        if shuffle.passed
        else "ABOVE CHANCE on shuffled labels: test labels leak into training; distrust the rest."
    )
    return Grid(
        "Control: training on shuffled labels",
        ("macro AUC on test", "top-1 on test", "chance range of macro AUC"),
        ((cell(shuffle.macro_auc), cell(shuffle.top1), f"{low:.3f} to {high:.3f}"),),
        (
            verdict,
            "The chance range permutes the classes' names: it is wider than the interval over "
            "images, because luck falls on generators, not on images.",
        ),
    )


def write_evaluation(result: Evaluation) -> None:
    """Write evaluation.json and evaluation.md into the folder of an evaluation."""
    write_table(result.plan.out, "evaluation", result.as_dict(), evaluation_tables(result))
