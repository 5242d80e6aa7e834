"""The pages of leak same and leak cluster: matrix, dendrogram, contact sheets."""

from __future__ import annotations

import base64
import io
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from leakcache.errors import ImageError
from leakcache.images.archive import read_image
from leakcache.images.decode import decode
from leakcache.names import visible
from leaknet.files import write_text
from leaknet.model.pair_calibration import merges
from leaknet.report.page import Section, page_text
from leaknet.report.svg import MAX_LEAVES, Axis, Html, dendrogram, leaf_order
from leaknet.sources.clustering import Clustering
from leaknet.sources.comparison import SURE, SourceComparison

MAX_MATRIX = 60
"""Images of which a matrix is drawn."""


def write_comparison(found: SourceComparison, run: Path, page: Path) -> None:
    """Write the page of a comparison.

    Raises:
        RunError: the file cannot be written.
    """
    labels = short_names(found.paths)
    sections = [Section("tree", "Dendrogram", "Dendrogram", {"drawing": tree_of(found, labels)})]
    if len(found) <= MAX_MATRIX:
        content = _matrix(found, labels)
        sections.insert(0, Section("matrix", "Matrix", "Every two images", content))
    write_text(page, render("same.html", found, run, sections))


def render(
    template: str, found: SourceComparison, run: Path, sections: list[Section], **values: Any
) -> str:
    """A page about a comparison as text."""
    return page_text(
        template,
        f"{len(found)} images",
        sections,
        command=f"leak {Path(template).stem}",
        run=run.name,
        found=found,
        sure=SURE,
        **values,
    )


def short_names(paths: Sequence[str]) -> list[str]:
    """Paths without the folder that all of them share."""
    folder = os.path.commonpath([str(Path(path).parent) for path in paths])
    return [visible(os.path.relpath(path, folder or ".")) for path in paths]


def tree_of(
    found: SourceComparison, labels: Sequence[str], cut: float | None = None
) -> Html | None:
    """Dendrogram of the images by their mean log10 ratios; None for too many."""
    if len(found) > MAX_LEAVES:
        return None
    top = float(found.log10_lr.max())
    tree = merges(found.log10_lr)
    lowest = min(top - float(tree[:, 2].max()), 0.0 if cut is None else cut)
    axis = Axis.spanning("mean log10 likelihood ratio of one source", lowest, max(top, 0.0))
    words = "Dendrogram of the images by likelihood ratio of one source"
    return dendrogram(tree, labels, axis, lambda height: top - height, words, cut)


def _matrix(found: SourceComparison, labels: Sequence[str]) -> dict[str, Any]:
    """Rows of chances, in the order of the dendrogram's leaves."""
    order, chances = leaf_order(merges(found.log10_lr)), found.chances
    names = [labels[i] for i in order]
    rows = [(labels[i], [(float(chances[i, j]), i == j) for j in order]) for i in order]
    return {"names": names, "rows": rows}


SIDE = 128
"""Longest side of a thumbnail in pixels."""
MAX_THUMBNAILS = 400
"""On a page; every cluster has at least one."""


def write_clusters(found: Clustering, run: Path, page: Path) -> None:
    """Write the page of a clustering.

    Raises:
        RunError: the file cannot be written.
    """
    comparison = found.comparison
    labels = short_names(comparison.paths)
    most = max(1, MAX_THUMBNAILS // len(found.clusters))
    sheets = []
    for cluster in found.clusters:
        shown = [(thumbnail(Path(comparison.paths[i])), labels[i]) for i in cluster.images[:most]]
        sheets.append((cluster, shown))
    tree = {"drawing": tree_of(comparison, labels, found.cut), "cut": found.cut}
    sections = [
        Section("sheets", "Clusters", "Contact sheets", {"sheets": sheets}),
        Section("tree", "Dendrogram", "Dendrogram", tree),
    ]
    write_text(page, render("cluster.html", comparison, run, sections, clusters=found.clusters))


def thumbnail(path: Path) -> str:
    """A small copy of an image as a data URI; empty where the file can no longer be read."""
    try:
        image = decode(read_image(path), least=SIDE)
    except (OSError, ImageError):
        return ""
    image.thumbnail((SIDE, SIDE), Image.Resampling.BICUBIC)
    data = io.BytesIO()
    image.save(data, "JPEG", quality=80)
    return "data:image/jpeg;base64," + base64.b64encode(data.getvalue()).decode("ascii")
