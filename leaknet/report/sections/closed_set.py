"""Closed set: which of the known generators made the image, and where that goes wrong."""

from __future__ import annotations

from typing import Any

import numpy as np

from leaknet.report.html import (
    LEGEND,
    Html,
    Section,
    cell,
    code,
    element,
    folded,
    heading,
    heat_class,
    join,
    measured,
    paragraph,
    row_name,
    strip,
    table,
)
from leaknet.report.metric_labels import CLOSED, MISSING, Figure, Measure, finite, percent, plain
from leaknet.report.run_data import ScoredRun

_SCORERS = {
    "prototype": ("Prototypes", "test images"),
    "mahalanobis": ("Mahalanobis distance", "test images"),
    "validation": ("Prototypes", "validation images"),
}


def closed_section(run: ScoredRun) -> Section:
    """Figures of both scorers, the confusion matrix, and each generator by itself."""
    body = join(
        paragraph(
            "Two ways of naming the generator from one embedding: the nearest learned "
            "prototype, and the diagonal Mahalanobis distance to each generator's training "
            "images. The epoch was chosen on the validation images, so their figures may "
            "flatter; the test images had no say in anything."
        ),
        _scorers(run),
        heading("Who is taken for whom"),
        _confusion_text(),
        confusion_table(run.closed["prototype"]),
        folded(
            "The same matrix for the Mahalanobis distance",
            confusion_table(run.closed["mahalanobis"]),
        ),
        heading("Each generator by itself"),
        _generators(run),
        heading("How far its probabilities hold"),
        _calibration(run),
    )
    return Section("closed", "Known generators: which one?", "Known", body)


def _scorers(run: ScoredRun) -> Html:
    headings = ["Scorer", *(_explained(measure) for measure in CLOSED)]
    rows = []
    for key, group in run.closed.items():
        name, images = _SCORERS[key]
        cells = [measured(m, Figure.of(group, m.key), _chance(run, m)) for m in CLOSED]
        rows.append([row_name(name, images), *cells])
    return join(table(headings, rows), LEGEND, _definitions())


def _chance(run: ScoredRun, measure: Measure) -> float | None:
    if measure.key == "top1":
        return run.chance
    present = int((np.array(run.closed["prototype"]["confusion"]).sum(axis=1) > 0).sum())
    return 1 / present if measure.key == "balanced" else measure.chance


def _explained(measure: Measure) -> Html:
    return element("abbr", measure.name, title=measure.meaning)


def _definitions() -> Html:
    items = [join(element("dt", m.name), element("dd", m.meaning)) for m in CLOSED]
    return folded("What these figures are", element("dl", items))


def _confusion_text() -> Html:
    return paragraph(
        "Rows: the generator that made the image. Columns: the one that was named. Each cell "
        "counts test images and is coloured by its share of the row, so that the diagonal shows "
        "how often each generator is recognised."
    )


def confusion_table(group: dict[str, Any]) -> Html:
    """Counts by true (row) and named (column) generator, coloured by their share of the row."""
    classes = group["classes"]
    counts = np.array(group["confusion"])
    headings = ["made by ↓ · named →", *(element("span", name, title=name) for name in classes)]
    rows = []
    for name, row in zip(classes, counts, strict=True):
        total = row.sum()
        shares = row / total if total else np.zeros(len(row))
        cells = [
            element(
                "td",
                str(count),
                class_=heat_class(share) if count else "none",
                title=f"{name} named {other}: {count} of {total}",
            )
            for count, share, other in zip(row.tolist(), shares.tolist(), classes, strict=True)
        ]
        rows.append([row_name(name), *cells])
    return table(headings, rows, class_="confusion" + (" dense" if len(classes) > 15 else ""))


def _generators(run: ScoredRun) -> Html:
    areas = run.closed["prototype"]["per_class_auc"]
    order = sorted(run.closed["prototype"]["classes"], key=lambda name: -(areas[name] or 0))
    headings = [
        "Generator",
        "Test images",
        "AUC",
        "AUC, Mahalanobis",
        "Recognised",
        "Trusted",
        "Most often taken for",
    ]
    return join(
        paragraph(
            "AUC: how well its images are ranked above those of all other known generators "
            "(0.5 is guessing). Recognised: share of its images that are named right. Trusted: "
            "of the images given its name, the share that is its own."
        ),
        table(headings, [_generator(run, name) for name in order], class_="compact"),
    )


def _generator(run: ScoredRun, name: str) -> list[Html]:
    group = run.closed["prototype"]
    place = group["classes"].index(name)
    counts = group["confusion"]
    own, made, named = counts[place][place], sum(counts[place]), sum(row[place] for row in counts)
    area = group["per_class_auc"][name]
    return [
        row_name(name),
        cell(str(made)),
        element(
            "td",
            element("span", plain(area), class_="value"),
            strip(Figure(area), 0.5),
            class_="number",
        ),
        cell(plain(run.closed["mahalanobis"]["per_class_auc"][name])),
        cell(percent(own / made) if made else MISSING),
        cell(percent(own / named) if named else MISSING),
        cell(_mistaken_for(counts[place], place, group["classes"]), class_="words"),
    ]


def _mistaken_for(row: list[int], own: int, classes: list[str]) -> str:
    others = [0 if place == own else count for place, count in enumerate(row)]
    most = max(others)
    return f"{classes[others.index(most)]} ({most})" if most else MISSING


def _calibration(run: ScoredRun) -> Html:
    if run.calibration is None:
        return paragraph(
            "The run holds no embeddings of two or more validation prompts, so its "
            "probabilities cannot be calibrated: do not take them at their word."
        )
    facts = run.calibration.facts
    return paragraph(
        f"Chosen on one half of the validation prompts, the temperature is "
        f"{run.calibration.temperature:.2f}. On the other half it takes the calibration error "
        f"from {plain(facts['ece_before'])} to {plain(facts['ece_after'])}; ",
        code("leak score IMAGE"),
        " states probabilities at that temperature. Its likelihood ratios cost "
        f"{plain(finite(facts['cllr']))} bits (Cllr, where 0 is perfect and 1 says nothing), of "
        f"which {plain(finite(facts['min_cllr']))} is what no calibration could save.",
    )
