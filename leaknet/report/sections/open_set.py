"""Open set: are images of generators that were never trained on told from the known ones?"""

from __future__ import annotations

import math
from collections import Counter

import numpy as np

from leaknet.calibration import Calibration, conformal_p_values, decide
from leaknet.calibration.decision import KNOWN, UNSURE
from leaknet.data.embeddings import Embeddings
from leaknet.metrics.roc import roc
from leaknet.report.html import (
    LEGEND,
    Html,
    Section,
    cell,
    charts,
    code,
    counted,
    element,
    folded,
    heading,
    heat_class,
    join,
    measured,
    paragraph,
    row_name,
    table,
)
from leaknet.report.metric_labels import MISSING, OPEN, Figure, percent, plain, whole_percent
from leaknet.report.run_data import ScoredRun
from leaknet.report.svg import Axis, Frame

# What `leak score IMAGE` would have answered for the images that the run was judged on.

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


# Figures of the open set: score histograms and operating curves of the reported detector.

_COLOURS = 7


def score_histograms(run: ScoredRun) -> Html:
    """Scores of the known beside those of each unknown generator, with the threshold."""
    known = run.scores(run.detector, "test")
    limit = threshold(run)
    panels = []
    for name in run.unknown:
        panels.append((name, _histogram(run, name, known, limit)))
    caption = join(
        element("span", class_="swatch known"),
        f"known test images ({len(known):,}) ",
        element("span", class_="swatch unknown"),
        "the unknown generator named above. Dashed: the threshold below which an image is called "
        f"unknown, set on validation images so that about {whole_percent(ALPHA)} of the known "
        "are. The outermost bins hold everything beyond them.",
    )
    return charts(*panels, caption=caption)


def _histogram(run: ScoredRun, name: str, known: np.ndarray, limit: float | None) -> Html:
    unknown = run.scores(run.detector, "open", name)
    low, high = _range(known, unknown)
    edges = np.linspace(low, high, _bins(len(unknown)) + 1)
    shares = [_shares(scores, edges) for scores in (known, unknown)]
    top = max(float(s.max()) for s in shares)
    frame = Frame(Axis.spanning("score", low, high), Axis.spanning("share of images", 0.0, top))
    marks = [
        frame.filled_steps(edges, shares[0], "fill known"),
        frame.filled_steps(edges, shares[1], "fill unknown"),
    ]
    if limit is not None:
        marks += frame.vertical(limit, "called unknown", "known")
    return frame.draw(f"Scores of known images and of {name}", *marks)


def _bins(images: int) -> int:
    """Few enough that most bins hold several images."""
    return min(30, max(8, round(2 * math.sqrt(images))))


def _range(known: np.ndarray, unknown: np.ndarray) -> tuple[float, float]:
    """A range that shows the known in detail, however far away a few images lie."""
    start, end = np.quantile(known, (0.01, 0.99))
    spread = end - start
    low, high = np.quantile(np.concatenate([known, unknown]), (0.01, 0.99))
    return float(max(low, start - 4 * spread)), float(min(high, end + 4 * spread))


def _shares(scores: np.ndarray, edges: np.ndarray) -> np.ndarray:
    counts, _ = np.histogram(np.clip(scores, edges[0], edges[-1]), edges)
    shares: np.ndarray = counts / len(scores)
    return shares


def roc_curves(run: ScoredRun) -> Html:
    """One curve an unknown generator, and a legend with its area."""
    frame = Frame(
        Axis.share("unknown images accepted"),
        Axis.share("known images accepted"),
        width=400,
        height=330,
    )
    known = run.scores(run.detector, "test")
    classes = _curve_classes(run)
    marks = [frame.line([0, 1], [0, 1], "chance")]
    for name in sorted(run.unknown, key=lambda name: classes[name] != "faint"):
        curve = roc(known, run.scores(run.detector, "open", name))
        marks.append(frame.line(curve.fpr[0], curve.tpr[0], classes[name]))
    drawing = frame.draw("ROC curve of each unknown generator", *marks)
    return element(
        "figure",
        element("div", drawing, _curve_legend(run, classes), class_="beside"),
        element(
            "figcaption",
            "Every threshold is one point of a curve: how much of the known it lets in, and how "
            "much of the unknown with it. The diagonal is guessing.",
        ),
    )


def _curve_classes(run: ScoredRun) -> dict[str, str]:
    """A colour each; where there are too many, only the best and the worst."""
    if len(run.unknown) <= _COLOURS:
        return {name: f"c{i}" for i, name in enumerate(run.unknown)}
    order = sorted(run.unknown, key=run.area)
    return dict.fromkeys(run.unknown, "faint") | {order[0]: "c1", order[-1]: "c0"}


def _curve_legend(run: ScoredRun, classes: dict[str, str]) -> Html:
    rows = []
    for name in sorted(run.unknown, key=run.area, reverse=True):
        rows.append(
            [
                element("th", element("span", class_=f"key {classes[name]}"), name, scope="row"),
                cell(plain(run.area(name))),
            ]
        )
    return table(["Unknown generator", "AUROC"], rows, class_="curve-legend")


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
