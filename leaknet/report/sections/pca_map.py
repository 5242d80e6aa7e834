"""The embeddings of the test images, seen along the two directions of most variance."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from leaknet.data.embeddings import Embeddings
from leaknet.report.html import Html, Section, charts, element, join, paragraph
from leaknet.report.metric_labels import percent
from leaknet.report.run_data import ScoredRun
from leaknet.report.svg import Axis, Frame

POINTS = 6000
"""Points drawn at most; beyond that every n-th image of each set is."""


@dataclass(frozen=True)
class Plane:
    """Two principal directions of the training embeddings.

    Attributes:
        centre: their mean.
        directions: unit vectors, the one of more variance first.
        explained: share of the training variance that each carries.
    """

    centre: Float[np.ndarray, " dimension"]
    directions: Float[np.ndarray, "2 dimension"]
    explained: tuple[float, float]

    @classmethod
    def fit(cls, train: Embeddings) -> Plane:
        """Principal components; the sign of each makes its largest entry positive."""
        vectors = train.vectors.astype(np.float64)
        centre = vectors.mean(axis=0)
        _, scales, directions = np.linalg.svd(vectors - centre, full_matrices=False)
        directions = directions[:2]
        largest = np.abs(directions).argmax(axis=1)
        directions *= np.sign(directions[np.arange(len(directions)), largest])[:, None]
        shares = scales**2 / max(float((scales**2).sum()), 1e-300)
        return cls(centre, directions, (float(shares[0]), float(shares[1])))

    def project(self, embeddings: Embeddings) -> Float[np.ndarray, "n 2"]:
        """Coordinates in the plane."""
        offsets = embeddings.vectors.astype(np.float64) - self.centre
        coordinates: np.ndarray = offsets @ self.directions.T
        return coordinates


def map_section(run: ScoredRun) -> Section:
    """One panel a generator, over the faint cloud of all test images."""
    return Section("map", "Where the images lie", "Map", _body(run))


def _body(run: ScoredRun) -> Html:
    if run.embeddings is None:
        return paragraph("The run holds no embeddings.h5, so there is nothing to draw.")
    train, test = run.embeddings.select("train"), run.embeddings.select("test")
    if min(len(train), train.vectors.shape[1]) < 2:
        return paragraph("The embeddings have too few images or dimensions to draw a plane.")
    plane = Plane.fit(train)
    strangers = run.embeddings.select("open")
    return join(_words(plane, len(strangers) > 0, run), _panels(plane, test, strangers))


def _words(plane: Plane, strangers: bool, run: ScoredRun) -> Html:
    first, second = plane.explained
    text = (
        "Each test image at its embedding, projected onto the two directions in which the "
        f"training embeddings vary most. They carry {percent(first)} and {percent(second)} of "
        "that variance; what is apart in the rest looks mixed here, so overlap in this picture "
        "does not prove confusion. The directions were not chosen to separate generators."
    )
    if run.open is not None and not strangers:
        text += " The run did not keep the embeddings of the unknown images."
    return paragraph(text)


def _panels(plane: Plane, test: Embeddings, strangers: Embeddings) -> Html:
    test, strangers = (_thinned(e, POINTS // 2) for e in (test, strangers))
    points, others = plane.project(test), plane.project(strangers)
    frame = _frame(np.concatenate([points, others]))
    right = test.logits.argmax(axis=1) == test.targets
    panels: list[tuple[str, Html]] = []
    for name in test.classes:
        own = test.labels == name
        marks = [
            frame.dots(points[own & right], "known"),
            frame.dots(points[own & ~right], "wrong"),
        ]
        panels.append((name, _panel(frame, name, points, marks, first=not panels)))
    for name in np.unique(strangers.labels).tolist():
        own = others[strangers.labels == name]
        marks = [frame.dots(own, "unknown")]
        panels.append((f"{name} (unknown)", _panel(frame, name, points, marks, first=False)))
    caption = [
        join(element("span", class_=f"swatch {class_}"), text)
        for class_, text in (
            ("known", "named right "),
            ("wrong", "named wrong "),
            *([("unknown", "unknown generator ")] if len(strangers) else []),
            ("cloud", "all test images of known generators"),
        )
    ]
    return charts(*panels, caption=join(caption), small=True)


def _panel(
    frame: Frame, name: str, points: np.ndarray, marks: list[Html | None], *, first: bool
) -> Html:
    again = None if first else element("use", href="#cloud")
    cloud = again or frame.dots(points, "cloud", name="cloud")
    return frame.draw(f"Embeddings of {name} among all test images", cloud, *marks)


def _frame(points: np.ndarray) -> Frame:
    (left, bottom), (right, top) = points.min(axis=0), points.max(axis=0)
    across, up = 0.04 * (right - left), 0.04 * (top - bottom)
    return Frame(
        Axis("", left - across, right + across),
        Axis("", bottom - up, top + up),
        width=230,
        height=210,
        left=12,
        bottom=8,
        top=8,
    )


def _thinned(embeddings: Embeddings, limit: int) -> Embeddings:
    """Every n-th row, where there are more than `limit`."""
    return embeddings.take(np.arange(0, len(embeddings), -(-len(embeddings) // limit) or 1))
