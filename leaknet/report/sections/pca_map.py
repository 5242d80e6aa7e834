"""Embeddings of the test images in the plane: t-SNE of all, principal components of each."""

from __future__ import annotations

from typing import Any

import numpy as np
from sklearn.decomposition import PCA
from sklearn.manifold import TSNE

from leaknet.data.embeddings import Embeddings
from leaknet.report.html import Html, element
from leaknet.report.run_data import ScoredRun
from leaknet.report.svg import Axis, Frame

COLOURS = 7
"""Known generators at most that have a colour each in the drawing of all."""
POINTS = 6000
"""Points drawn at most; beyond that every n-th image of each set."""
NEIGHBOURS = 1000
"""Points of t-SNE at most; a thousand take some seconds."""
PERPLEXITY = 30


def pca_map(run: ScoredRun) -> dict[str, Any]:
    """All generators in one drawing, and one panel each over the faint cloud of all test images."""
    if run.embeddings is None:
        return {"panels": [], "reason": "The run holds no embeddings.h5, so nothing can be drawn."}
    train, test = run.embeddings.select("train"), run.embeddings.select("test")
    if min(len(train), train.coordinates.shape[1]) < 2:
        return {"panels": [], "reason": "Too few images or dimensions for a plane."}
    plane = PCA(2, svd_solver="full").fit(train.coordinates.astype(np.float64))
    unknown = run.embeddings.select("open")
    return {
        "panels": _panels(plane, test, unknown),
        **_together(test, unknown),
        "explained": np.nan_to_num(plane.explained_variance_ratio_).tolist(),
        "unknown": len(unknown) > 0,
    }


def _panels(plane: PCA, test: Embeddings, unknown: Embeddings) -> list[tuple[str, Html]]:
    test, unknown = (_thinned(e, POINTS // 2) for e in (test, unknown))
    points, others = (_project(plane, e) for e in (test, unknown))
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
    for name in np.unique(unknown.labels).tolist():
        marks = [frame.dots(others[unknown.labels == name], "unknown")]
        panels.append((f"{name} (unknown)", _panel(frame, name, points, marks, first=False)))
    return panels


def _together(test: Embeddings, unknown: Embeddings) -> dict[str, Any]:
    """All generators by t-SNE, the unknown ones below the known."""
    test, unknown = (_thinned(e, NEIGHBOURS // 2) for e in (test, unknown))
    vectors = np.concatenate([test.coordinates, unknown.coordinates]).astype(np.float64)
    if len(vectors) < 4 or not np.ptp(vectors, axis=0).any():
        return {"together": None}
    perplexity = min(PERPLEXITY, (len(vectors) - 1) / 3)
    plane = TSNE(2, perplexity=perplexity, random_state=0)
    points: np.ndarray = plane.fit_transform(vectors).astype(np.float64)
    frame = _frame(points, width=640, height=400)
    colours = [(name, f"c{number}") for number, name in enumerate(test.classes)]
    if len(colours) > COLOURS:
        colours = [("known generators", "c0")]
    marks = [frame.dots(points[len(test) :], "other")]
    for name, class_ in colours:
        own = (test.labels == name) | (len(colours) == 1)
        marks.append(frame.dots(points[: len(test)][own], f"{class_} mark"))
    drawing = frame.draw("Embeddings of all generators", *marks)
    return {"together": drawing, "colours": colours, "drawn": len(vectors)}


def _project(plane: PCA, embeddings: Embeddings) -> np.ndarray:
    vectors = embeddings.coordinates.astype(np.float64)
    points: np.ndarray = plane.transform(vectors) if len(vectors) else np.empty((0, 2))
    return points


def _panel(
    frame: Frame, name: str, points: np.ndarray, marks: list[Html | None], *, first: bool
) -> Html:
    again = None if first else element("use", href="#cloud")
    cloud = again or frame.dots(points, "cloud", name="cloud")
    return frame.draw(f"Embeddings of {name} among all test images", cloud, *marks)


def _frame(points: np.ndarray, width: int = 230, height: int = 210) -> Frame:
    (left, bottom), (right, top) = points.min(axis=0), points.max(axis=0)
    across, up = 0.04 * (right - left), 0.04 * (top - bottom)
    x, y = Axis("", left - across, right + across), Axis("", bottom - up, top + up)
    return Frame(x, y, width=width, height=height, left=12, bottom=8, top=8)


def _thinned(embeddings: Embeddings, limit: int) -> Embeddings:
    """Every n-th row, where there are more than `limit`."""
    return embeddings.take(np.arange(0, len(embeddings), -(-len(embeddings) // limit) or 1))
