"""Pages that compare generators or images: `leak atlas`, `leak same` and `leak cluster`."""

from __future__ import annotations

import base64
import csv
import io
import os
from collections.abc import Iterable, Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from rich.table import Table
from rich.text import Text

from leakcache.errors import DataError, ImageError
from leakcache.files import parse_json, read_text
from leakcache.images.archive import read_image
from leakcache.images.decode import decode
from leakcache.names import cell, visible
from leakcache.statistics.planes import idct_low
from leaknet.files import write_text
from leaknet.model.pair_calibration import merges
from leaknet.report.page import PageImage, Section, beside, page_text, signed_map
from leaknet.report.svg import MAX_LEAVES, Axis, Html, dendrogram, leaf_order
from leaknet.report.terminal import print_note, print_wide
from leaknet.report.traces import RATE, Atlas, autocorrelation, whole_spectrum
from leaknet.scoring.same_source import DIFFERENT, SAME, SURE, Clustering, Pair, SourceComparison

CAUSES = {
    "schedule": "schedule",
    "prediction": "predicts",
    "zero_terminal_snr": "zero terminal SNR",
    "sampler": "sampler",
    "steps": "steps",
}
"""Settings of a generator that a data set may state in its manifest.json, as headings."""


def write_atlas(atlas: Atlas, cache: str, data: Path, out: Path) -> None:
    """Write the page; the manifest.json of the data root may state how its generators differ.

    Raises:
        RunError: it cannot be written.
    """
    write_text(out, render(atlas, cache, causes_of(data)))


def causes_of(data: Path) -> dict[str, dict[str, Any]]:
    """Stated settings by generator; empty where the data state none."""
    try:
        listed = parse_json(read_text(data / "manifest.json"))["generators"]
        return {str(one["name"]): {key: one[key] for key in CAUSES} for one in listed}
    except (OSError, ValueError, KeyError, TypeError):
        return {}


def render(atlas: Atlas, cache: str, causes: dict[str, dict[str, Any]]) -> str:
    """The page as text."""
    sections = [
        Section("traces", "Generators", "Generators", _summary(atlas, causes), "atlas_table")
    ]
    if atlas.spectrum is not None:
        content: dict[str, Any] = {"panels": _spectra(atlas)}
        sections.append(Section("spectra", "Spectra", "Residual spectra", content, "atlas_spectra"))
    if atlas.low is not None:
        channels = [f"channel {n + 1}" for n in range(len(atlas.low[0].mean))]
        content = {"panels": _latents(atlas), "channels": channels}
        sections.append(Section("latents", "Latents", "Low frequencies", content, "atlas_latents"))
    if atlas.distances is not None:
        content = {
            "tree": _tree(atlas),
            "names": [visible(name) for name in atlas.generators],
            "rows": list(zip(atlas.generators, atlas.distances.tolist(), strict=True)),
            "top": float(atlas.distances.max()),
        }
        sections.append(
            Section("distances", "Distances", "Distances of generators", content, "atlas_distances")
        )
    return page_text(
        "atlas.html",
        "Traces of generators",
        sections,
        command="leak atlas",
        cache=cache,
        atlas=atlas,
        rate=RATE,
    )


def _summary(atlas: Atlas, causes: dict[str, dict[str, Any]]) -> dict[str, Any]:
    headings = {
        "channels": "Channel means",
        "low": "Low frequencies",
        "spectrum": "Residual spectrum",
    }
    shown = {key: words for key, words in headings.items() if getattr(atlas, key) is not None}
    rows = []
    for place, name in enumerate(atlas.generators):
        found = [getattr(atlas, key)[place].significant for key in shown]
        cells = [f"{int(one.sum())} of {one.size}" for one in found]
        stated = [_stated(causes.get(name, {}).get(key)) for key in CAUSES] if causes else []
        rows.append((name, atlas.images[place], cells, stated))
    return {
        "headings": ["Generator", "Images", *shown.values(), *(CAUSES.values() if causes else ())],
        "rows": rows,
        "causes": bool(causes),
    }


def _stated(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return "–" if value is None else str(value)


def _spectra(atlas: Atlas) -> list[tuple[str, list[PageImage]]]:
    assert atlas.spectrum is not None
    assert atlas.power is not None
    top = max(float(np.abs(one.kept).max()) for one in atlas.spectrum)
    correlations = np.stack([autocorrelation(power) for power in atlas.power])
    correlations -= correlations.mean(axis=0)
    most = float(np.abs(correlations).max())
    panels = []
    for name, one, correlation in zip(atlas.generators, atlas.spectrum, correlations, strict=True):
        spectrum = signed_map(whole_spectrum(one.kept), top)
        words = f"Residual spectrum of {visible(name)}, deviation from the other generators"
        other = f"Autocorrelation of the residual of {visible(name)}, less the mean of all"
        figures = [
            PageImage("spectrum", words, spectrum),
            PageImage("autocorrelation", other, signed_map(correlation, most)),
        ]
        panels.append((name, figures))
    return panels


def _latents(atlas: Atlas) -> list[tuple[str, list[PageImage], list[tuple[float, bool]]]]:
    assert atlas.low is not None
    assert atlas.channels is not None
    assert atlas.latent is not None
    inverse = [idct_low(torch.from_numpy(one.kept), *atlas.latent).numpy() for one in atlas.low]
    kept = [one.kept for one in atlas.low]
    tops = [max(float(np.abs(v).max()) for v in values) for values in (inverse, kept)]
    panels = []
    for place, name in enumerate(atlas.generators):
        named = f"of {visible(name)}, a channel beside the other"
        maps = beside(inverse[place]), beside(kept[place])
        figures = [
            PageImage("image", f"Low frequencies {named}", signed_map(maps[0], tops[0], 128)),
            PageImage("dct", f"DCT coefficients {named}", signed_map(maps[1], tops[1], 128)),
        ]
        channel = atlas.channels[place]
        means = list(zip(channel.mean.tolist(), channel.significant.tolist(), strict=True))
        panels.append((name, figures, means))
    return panels


def _tree(atlas: Atlas) -> Html | None:
    """A dendrogram with the leaves below each other."""
    if atlas.tree is None or not 2 <= len(atlas.generators) <= MAX_LEAVES:
        return None
    top = float(atlas.tree[:, 2].max()) or 1.0
    ticks = tuple((value, f"{value:.2g}") for value in (top, top / 2, 0.0))
    axis = Axis("distance", top, 0.0, ticks)
    return dendrogram(atlas.tree, atlas.generators, axis, float, "Dendrogram of the generators")


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
    write_text(page, _source_page("same.html", found, run, sections))


def _source_page(
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
    write_text(
        page, _source_page("cluster.html", comparison, run, sections, clusters=found.clusters)
    )


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


MAX_IMAGES = 6
"""Images of which every pair is printed; of more, each image with its nearest one."""
MAX_FILES = 3
"""Files of a cluster that are printed."""
_STYLES = {SAME: "green", DIFFERENT: "red"}


def print_comparison(found: SourceComparison) -> None:
    """Print all pairs of a few images, or the nearest image of each of many."""
    few = len(found) <= MAX_IMAGES
    table = Table(box=None, pad_edge=False)
    for heading in ("answer", "chance", "log10 LR", "support"):
        table.add_column(heading)
    table.add_column("image")
    table.add_column("and" if few else "most likely of one source with")
    for pair in found.pairs() if few else found.nearest():
        table.add_row(
            Text(pair.answer, _STYLES.get(pair.answer, "yellow")),
            f"{100 * pair.chance:.0f} %",
            f"{pair.log10_lr:+.2f}",
            pair.verbal,
            Text(visible(pair.first)),
            Text(visible(pair.second)),
        )
    print_wide(table)
    print_rejected(found)
    print_note(_footnote(found))


def print_clusters(found: Clustering) -> None:
    """Print one line a cluster: size, mean ratio within and to the nearest cluster, images."""
    comparison = found.comparison
    print_note(f"{len(found.clusters)} sources in {len(comparison)} images")
    table = Table(box=None, pad_edge=False)
    for heading in ("cluster", "images", "log10 LR within", "nearest cluster"):
        table.add_column(heading)
    table.add_column("files")
    for cluster in found.clusters:
        shown = [comparison.paths[image] for image in cluster.images[:MAX_FILES]]
        more = len(cluster.images) - len(shown)
        table.add_row(
            str(cluster.number),
            str(len(cluster.images)),
            "" if cluster.within is None else f"{cluster.within:+.2f}",
            "" if cluster.nearest is None else f"{cluster.nearest} ({cluster.between:+.2f})",
            Text(visible(", ".join(shown)) + (f" and {more} more" if more else "")),
        )
    print_wide(table)
    print_rejected(comparison)
    print_note(
        f"joined down to a mean log10 likelihood ratio of {found.cut:+.2f}, which grouped "
        f"{comparison.calibration.images} images of {comparison.calibration.generators} "
        "generators best that the fits had not seen"
    )


def print_rejected(found: SourceComparison) -> None:
    """Print the files that could not be compared."""
    for path, reason in found.rejected:
        print_note(visible(f"rejected: {path}: {reason}"))


def _footnote(found: SourceComparison) -> str:
    c = found.calibration
    return (
        f"chance: that both have the same source, known or not, at even prior odds; same from "
        f"{SURE:.0%}, different up to {1 - SURE:.0%}. Calibrated on {c.images} images of "
        f"{c.generators} generators that the compared fits had not seen: AUROC {c.auroc:.3f}, "
        f"ratios from {10**c.low:.2g} to {10**c.high:.2g}."
    )


def write_pairs(pairs: Iterable[Pair], path: Path) -> None:
    """Write pairs as CSV, with the fields of `Pair` as columns.

    Raises:
        DataError: the file cannot be written.
    """
    names = [field.name for field in fields(Pair)]
    write_csv(path, names, (list(asdict(pair).values()) for pair in pairs))


def write_csv(path: Path, names: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    """Write a table as CSV that no spreadsheet runs.

    Raises:
        DataError: the file cannot be written.
    """
    try:
        # Names may hold bytes that are no UTF-8.
        with path.open("w", encoding="utf-8", errors="backslashreplace", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(names)
            writer.writerows([cell(v) if isinstance(v, str) else v for v in row] for row in rows)
    except OSError as error:
        raise DataError(
            f"{path}: cannot be written ({error.strerror}); name another --csv"
        ) from error
