"""Open set: are images of generators that were never trained on told from the known ones?"""

from __future__ import annotations

from leaknet.report.fold_report_markup import Html, element, join
from leaknet.report.html import (
    LEGEND,
    Section,
    cell,
    code,
    folded,
    heading,
    heat_class,
    measured,
    paragraph,
    row_name,
    table,
)
from leaknet.report.metric_labels import OPEN, Figure, plain
from leaknet.report.run_data import ScoredRun
from leaknet.report.sections.fold_report_open_figures import roc_curves, score_histograms
from leaknet.report.sections.fold_report_verdicts import answer_table


def open_section(run: ScoredRun) -> Section:
    """Figures, curves and verdicts; an explanation where there was no open set."""
    body = _nothing() if run.open is None else _everything(run)
    return Section("open", "Unknown generators: does it notice?", "Unknown", body)


def _nothing() -> Html:
    return paragraph(
        "This run was scored on known generators alone, so nothing here says how it treats an "
        "image from any other: it will always name one of those it knows. To find out, run ",
        code("leak score --kde --open FOLDER"),
        " with images of generators that it was not trained on.",
    )


def _everything(run: ScoredRun) -> Html:
    return join(
        paragraph(
            "Each detector gives an image one score, higher for “more like the known”, "
            "and all images go through the same call. Reported: ",
            element("strong", run.detector),
            ", chosen before any image was scored. It was fitted on known generators alone.",
        ),
        heading("Each unknown generator"),
        _generators(run),
        heading("Where the scores lie"),
        score_histograms(run),
        heading("What any threshold could do"),
        roc_curves(run),
        heading("What would have been answered"),
        answer_table(run),
        heading("All detectors"),
        _detectors(run),
    )


def _generators(run: ScoredRun) -> Html:
    assert run.open is not None
    groups = [("All together", run.open, run.open["interval"])]
    if len(run.unknown) > 1:
        ends = run.open["interval"]
        groups.append(("Mean over generators", run.open["mean"], ends.get("mean", {})))
        groups += [(n, run.open[n], ends.get(n, {})) for n in run.unknown]
    rows = []
    for name, group, ends in groups:
        figures = {**group, "interval": ends}
        rows.append([row_name(name), *(measured(m, Figure.of(figures, m.key)) for m in OPEN)])
    headings = ["Generator", *(element("abbr", m.name, title=m.meaning) for m in OPEN)]
    meanings = [join(element("dt", m.name), element("dd", m.meaning)) for m in OPEN]
    return join(
        table(headings, rows),
        LEGEND,
        folded("What these figures are", element("dl", meanings)),
    )


def _detectors(run: ScoredRun) -> Html:
    found = run.metrics["detectors"]
    rows = []
    shown = OPEN[:-1]
    for name, group in found.items():
        figures = [measured(m, Figure.of(group, m.key)) for m in shown]
        worst = group["worst"]["auroc"]
        rows.append(
            [
                row_name(name, "reported" if name == run.detector else ""),
                *figures,
                cell(plain(worst)),
            ]
        )
    headings = ["Detector", *(m.name for m in shown), "Worst AUROC"]
    warning = paragraph(
        "All unknown images together. Which detector to report was not decided by this table: "
        "picking the best row after seeing it would be a choice made on the unknown images, "
        "and its figure would flatter."
    )
    return join(warning if len(found) > 1 else None, table(headings, rows), _areas(run))


def _areas(run: ScoredRun) -> Html | None:
    """AUROC of every detector on every generator."""
    found = run.metrics["detectors"]
    if len(found) < 2 or len(run.unknown) < 2:
        return None
    rows = [
        [row_name(name), *(_area_cell(group[generator]["auroc"]) for generator in run.unknown)]
        for name, group in found.items()
    ]
    headings = ["AUROC", *(element("span", name, title=name) for name in run.unknown)]
    return folded(
        "AUROC of every detector on every unknown generator",
        table(headings, rows, class_="confusion"),
    )


def _area_cell(area: float | None) -> Html:
    share = None if area is None else 2 * (area - 0.5)
    return element("td", plain(area), class_=heat_class(share))
