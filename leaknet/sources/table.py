"""Pairs of images as a table on the terminal, and as CSV."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

from rich.table import Table
from rich.text import Text

from leakcache.errors import DataError
from leakcache.names import cell, visible
from leaknet.report.terminal import print_note, print_wide
from leaknet.sources.clustering import Clustering
from leaknet.sources.comparison import DIFFERENT, SAME, SURE, Pair, SourceComparison

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
