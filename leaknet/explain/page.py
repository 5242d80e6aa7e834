"""The page of explanations as one HTML file, its figures as PNG, its numbers as JSON."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from leakcache.errors import RunError
from leakcache.files import write_json
from leakcache.names import visible
from leaknet.explain.contributions import COPIES, PARTS
from leaknet.explain.explain import AGREES, Explanation, LatentEvidence, StatisticsEvidence
from leaknet.explain.position import Position
from leaknet.files import write_text
from leaknet.report.page import (
    SIDE,
    PageImage,
    Section,
    enlarged,
    find_browser,
    overlay,
    page_text,
    pattern,
    print_pdf,
    signed_map,
    thumbnail,
)
from leaknet.report.svg import Axis, Frame, Html

PAGE, NUMBERS, FIGURES = "index.html", "explanation.json", "figures"
FEATURES = 12
"""Features of the embedding that a table lists."""
FAMILIES = 12
POINTS = 3000
"""Images on the map at most; beyond that every n-th."""
SIZE = (400, 330)


def write_explanations(
    explanations: Sequence[Explanation], run: str, folder: Path, *, pdf: bool = False
) -> dict[str, Any]:
    """Write `index.html`, `explanation.json`, `figures/N-NAME.png` and, if asked for, `index.pdf`.

    Args:
        explanations: at least one.
        run: the run that answers, in words.
        folder: created where it is missing.
        pdf: also write the page as PDF, by Chromium or Chrome.

    Returns:
        The content of `explanation.json`.

    Raises:
        RunError: the folder cannot be written to.
        LeakError: no browser prints the PDF.
    """
    browser = find_browser("--pdf") if pdf else None
    try:
        (folder / FIGURES).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RunError(f"{folder} cannot be made a folder: {error.strerror}") from error
    figures = [keyed_figures(one) for one in explanations]
    for number, own in enumerate(figures, 1):
        for figure in own.values():
            (folder / FIGURES / f"{number}-{figure.key}.png").write_bytes(figure.png)
    content = {"run": run, "images": [one.as_dict() for one in explanations]}
    write_json(folder / NUMBERS, content)
    write_text(folder / PAGE, render(explanations, run, figures))
    if browser is not None:
        print_pdf(browser, folder / PAGE)
    return content


def render(
    explanations: Sequence[Explanation], run: str, figures: Sequence[Mapping[str, PageImage]]
) -> str:
    """The page as text."""
    sections = []
    for number, (one, own) in enumerate(zip(explanations, figures, strict=True), 1):
        name = visible(Path(one.path).name)
        content = {"e": one, "figures": own, **_tables(one)}
        sections.append(Section(f"image{number}", name, name, content, "explained"))
    return page_text(
        "explain.html",
        "Why this answer?",
        sections,
        command="leak explain",
        run=run,
        count=len(explanations),
        agrees=AGREES,
    )


# Figures.


def keyed_figures(explanation: Explanation) -> dict[str, PageImage]:
    """Every image of one explanation by its key."""
    return {figure.key: figure for figure in figures_of(explanation)}


def figures_of(explanation: Explanation) -> Iterator[PageImage]:
    """Every image of one explanation."""
    if (statistics := explanation.statistics) is not None:
        yield from _statistics_figures(explanation, statistics)
    if (latents := explanation.latents) is not None:
        yield from _latent_figures(explanation, latents)
    shown = {"nearest": explanation.position.nearest}
    for name, evidence in (("statistics", statistics), ("latents", latents)):
        if evidence and evidence.prototypes:
            shown[name] = evidence.prototypes.neighbours
    for name, neighbours in shown.items():
        for place, near in enumerate(neighbours, 1):
            if near.image:
                alt = f"Known image {visible(near.path)}"
                yield PageImage(f"{name}-neighbour{place}", alt, near.image)


def _statistics_figures(explanation: Explanation, e: StatisticsEvidence) -> Iterator[PageImage]:
    first, second = explanation.first, explanation.second
    yield PageImage("image", "The image", thumbnail(Image.fromarray(e.view), SIDE))
    shape = e.view.shape[:2]
    quarters = np.array([e.contributions.by_part.get(part, 0.0) for part in PARTS[1:]])
    words = f"blue supports {first}, orange {second}"
    alt = f"Terms of the quarters of the image: {words}"
    yield PageImage("quarters", alt, overlay(e.view, enlarged(quarters.reshape(2, 2), shape)))
    alt = f"Margin of each tile by itself: {words}"
    yield PageImage("tiles", alt, overlay(e.view, _tile_map(e)))
    for place, one in enumerate(e.patterns, 1):
        yield PageImage(f"pattern{place}", f"Pattern of {one.words}", pattern(one.image))
        if one.spectrum is not None:
            alt = f"Terms of {one.family} by frequency, lowest at the top left: {words}"
            yield PageImage(f"spectrum{place}", alt, signed_map(one.spectrum))


def _tile_map(e: StatisticsEvidence) -> np.ndarray:
    """Mean over the tiles that cover a pixel; 0 for pixels at an edge that no tile covers."""
    total, count = np.zeros(e.view.shape[:2]), np.zeros(e.view.shape[:2])
    for (top, bottom, left, right), value in zip(e.boxes, e.tiles, strict=True):
        total[top:bottom, left:right] += value
        count[top:bottom, left:right] += 1
    found: np.ndarray = total / np.maximum(count, 1)
    return found


def _latent_figures(explanation: Explanation, e: LatentEvidence) -> Iterator[PageImage]:
    words = f"blue supports {explanation.first}, orange {explanation.second}"
    if explanation.statistics is None:
        yield PageImage("image", "The image", thumbnail(Image.fromarray(e.views[0]), SIDE))
    for place, (view, values) in enumerate(zip(e.views, e.map.values, strict=True), 1):
        alt = f"Integrated gradients on the latent: {words}"
        yield PageImage(f"latent{place}", alt, overlay(view, enlarged(values, view.shape[:2])))


# Tables and drawings.


def _tables(explanation: Explanation) -> dict[str, Any]:
    statistics, latents = explanation.statistics, explanation.latents
    evidence = {"statistics": statistics, "latents": latents}
    prototypes = {name: one.prototypes for name, one in evidence.items() if one and one.prototypes}
    strongest = {
        name: np.argsort(-np.abs(one.features), kind="stable")[:FEATURES].tolist()
        for name, one in prototypes.items()
    }
    groups = statistics.contributions.by_group if statistics else {}
    families = statistics.contributions.by_family if statistics else {}
    return {
        "histogram": _histogram(explanation.position),
        "map": _map(explanation),
        "groups": signed(groups),
        "families": signed(dict(list(families.items())[:FAMILIES])),
        "other_families": len(families) - min(len(families), FAMILIES),
        "parts": signed(statistics.contributions.by_part if statistics else {}),
        "copies": COPIES,
        "prototypes": prototypes,
        "features": {
            name: signed({f"feature {i}": float(one.features[i]) for i in strongest[name]})
            for name, one in prototypes.items()
        },
    }


def signed(values: Mapping[str, float]) -> list[tuple[str, float, float, float]]:
    """Name, value, and the start and length of its bar, in percent of the width of a cell."""
    top = max((abs(value) for value in values.values()), default=0.0) or 1.0
    return [
        (name, value, 50 + min(0.0, 50 * value / top), 50 * abs(value) / top)
        for name, value in values.items()
    ]


def _histogram(position: Position) -> Html:
    low, high = float(position.known.min()), float(position.known.max())
    for value in (position.score, position.threshold):
        if value is not None:
            low, high = min(low, value), max(high, value)
    margin = 0.05 * (high - low) or 0.5
    low, high = low - margin, high + margin
    bins = min(30, max(8, round(2 * len(position.known) ** 0.5)))
    edges = np.linspace(low, high, bins + 1)
    fractions = np.histogram(position.known, edges)[0] / len(position.known)
    y = Axis.spanning("fraction of images", 0.0, 1.15 * float(fractions.max()))
    frame = Frame(Axis.spanning(f"{position.detector} score", low, high), y, *SIZE)
    marks: list[Html | None] = [frame.filled_steps(edges, fractions, "fill known")]
    if position.threshold is not None:
        marks += frame.vertical(position.threshold, "unknown", "known")
    marks.append(frame.line([position.score] * 2, [0.0, y.high], "here"))
    return frame.draw("Scores of the calibration images, and of this image", *marks)


def _map(explanation: Explanation) -> Html | None:
    position = explanation.position
    if position.point is None:
        return None
    points = position.points[:: max(1, -(-len(position.points) // POINTS))]
    labels = position.labels[:: max(1, -(-len(position.points) // POINTS))]
    every = np.concatenate([points, [position.point]])
    (left, bottom), (right, top) = every.min(axis=0), every.max(axis=0)
    wide, tall = 0.04 * (right - left or 1.0), 0.04 * (top - bottom or 1.0)
    x = Axis.spanning("first principal component", left - wide, right + wide)
    y = Axis.spanning("second", bottom - tall, top + tall)
    frame = Frame(x, y, *SIZE)
    chosen = {explanation.first: "known", explanation.second: "unknown"}
    marks = [frame.dots(points[~np.isin(labels, list(chosen))], "cloud")]
    marks += [frame.dots(points[labels == name], class_) for name, class_ in chosen.items()]
    marks.append(frame.dots(np.array([position.point]), "here"))
    return frame.draw("The image among the known images", *marks)
