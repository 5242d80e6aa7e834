"""The page of `leak cluster`: a contact sheet of each cluster, and the dendrogram."""

from __future__ import annotations

import base64
import io
from pathlib import Path

from PIL import Image

from leakcache.errors import ImageError
from leakcache.images.archive import read_image
from leakcache.images.decode import decode
from leaknet.files import write_text
from leaknet.report.page import Section
from leaknet.sources.clustering import Clustering
from leaknet.sources.page import render, short_names, tree_of

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
