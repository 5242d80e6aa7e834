"""What is wrong with the collection itself, in words: copies, folds, classes, sizes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence

import numpy as np

from leakcache.dataset.index import DatasetIndex
from leaknet.audit.duplicates import DuplicateSet, blank_images
from leaknet.audit.findings import Finding, counted, listing
from leaknet.audit.observations import Observations

IMBALANCE = 3
"""How many times larger the largest class may be than the smallest."""
MANY = 0.01
"""Share of copies among all images from which they move a score by more than its noise."""
FEW = 10
"""Training images below which a class is tiny."""


def duplicate_words(
    seen: Observations, exact: Sequence[DuplicateSet], near: Sequence[DuplicateSet]
) -> Iterator[Finding]:
    """Copies in closed and open set, under several labels, across folds, and within one fold.

    Blank images, which are all alike, are spoken of once.
    """
    blank = blank_images(seen.phashes)
    yield from _crossing(seen, [s for s in exact if not blank[s.rows[0]]], "equal files")
    yield from _crossing(seen, [s for s in near if len(s.groups) > 1], "near duplicates")
    alike = [s for s in near if len(s.groups) == 1]
    if alike:
        yield Finding(
            "note",
            "duplicates",
            f"{_sets_of('near duplicates', alike, seen)} within one prompt group each, as "
            "generators make them of the same prompt and noise: no leak.",
        )
    if not exact and not near:
        yield Finding("note", "duplicates", "No picture occurs twice.")
    rows = np.flatnonzero(blank)
    if len(rows):
        yield Finding(
            "warning",
            "blank images",
            f"{counted(len(rows), 'image')} of one colour ({listing(seen.paths[rows].tolist())}), "
            "as a safety filter leaves them: nothing can be told from those, take them out.",
        )


def _crossing(seen: Observations, sets: Sequence[DuplicateSet], kind: str) -> Iterator[Finding]:
    """One sentence for each way of crossing; a set counts where it does most harm."""
    crossings: tuple[tuple[Callable[[DuplicateSet], bool], str, str], ...] = (
        (lambda s: s.crosses_sets, "in both closed and open set", "take them out of the open set"),
        (
            lambda s: s.crosses_labels,
            "with different labels",
            "a picture has one generator: keep one or neither",
        ),
        (lambda s: s.crosses_folds, "in different folds", "keep one, or give them one group"),
    )
    rest = list(sets)
    for crosses, what, cure in crossings:
        found = [s for s in rest if crosses(s)]
        rest = [s for s in rest if not crosses(s)]
        if found:
            level = "severe" if _matters(seen, found, kind) else "warning"
            yield Finding(level, "duplicates", f"{_sets_of(kind, found, seen)} {what}: {cure}.")
    if rest:
        sentence = f"{_sets_of(kind, rest, seen)} within one class and fold: no leak."
        yield Finding("note", "duplicates", sentence)


def _matters(seen: Observations, found: Sequence[DuplicateSet], kind: str) -> bool:
    """Equal files in closed and open set, or so many copies that they move a score."""
    copies = sum(len(s.rows) for s in found)
    unknown_is_known = kind == "equal files" and found[0].crosses_sets
    return unknown_is_known or copies > MANY * len(seen)


def _sets_of(kind: str, sets: Sequence[DuplicateSet], seen: Observations) -> str:
    """`2 sets of equal files (a = b, ...)`: of the first set, one image a label and fold."""
    rows = {(seen.labels[row], seen.folds[row]): row for row in reversed(sets[0].rows)}
    shown = sorted(rows.values()) if len(rows) > 1 else sets[0].rows
    example = " = ".join(seen.paths[list(shown[:3])].tolist())
    return f"{counted(len(sets), 'set')} of {kind} ({example}{', ...' * (len(sets) > 1)})"


def collection_words(index: DatasetIndex, seen: Observations) -> Iterator[Finding]:
    """Groups across folds, prompts that are not shared, classes too small or too uneven."""
    closed = [record for record in index.records if record.fold != "open"]
    yield from _group_words(index)
    counts = Counter(record.label for record in closed if record.fold == "train")
    if len(index.classes) < 2:
        yield Finding(
            "severe",
            "classes",
            f"{counted(len(index.classes), 'known generator')}: there is nothing to tell apart; "
            "add images of others.",
        )
        return
    tiny = [f"{label} ({counts[label]})" for label in index.classes if counts[label] < FEW]
    if tiny:
        yield Finding(
            "warning",
            "classes",
            f"{counted(len(tiny), 'generator')} with fewer than {FEW} training images "
            f"({listing(tiny)}): leave them out or add images.",
        )
    most, least = max(counts.values(), default=0), min(counts.values(), default=0)
    if least and most > IMBALANCE * least:
        yield Finding(
            "warning",
            "classes",
            f"The largest class has {most} training images and the smallest {least}: "
            "read balanced accuracy and macro AUC, not top-1.",
        )
    strangers = sorted(set(seen.labels[seen.unknown].tolist()) & set(index.classes))
    if strangers:
        yield Finding(
            "warning",
            "classes",
            f"The open set has a class of the name of a known generator ({listing(strangers)}): "
            "if it is the same generator, it is not unknown.",
        )


def _group_words(index: DatasetIndex) -> Iterator[Finding]:
    if index.crossing_groups:
        yield Finding(
            "severe",
            "groups",
            f"{counted(len(index.crossing_groups), 'prompt group')} with images in several folds "
            f"({listing(index.crossing_groups)}): a model can remember the prompt; move each "
            "group into one fold.",
        )
    owners: dict[str, set[str]] = {}
    for record in index.select("closed").records:
        owners.setdefault(record.group, set()).add(record.label)
    if len(index.classes) > 1 and owners and max(map(len, owners.values())) == 1:
        yield Finding(
            "warning",
            "groups",
            "No prompt is shared between generators: what the pictures show can give them away; "
            "name shared prompts in the group column of an index file, if there are any.",
        )


def native_size_words(seen: Observations, side: int) -> Iterator[Finding]:
    """On the canonical track: traces of the size that images had before."""
    short = seen.native.min(axis=1)
    typical = {label: int(np.median(short[seen.labels == label])) for label in set(seen.labels)}
    low, high = min(typical.values()), max(typical.values())
    if low != high and low < 2 * side:
        smaller = max(64, low // 2 // 8 * 8)
        yield Finding(
            "warning",
            "native size",
            f"Images were {low} px in some generators and {high} px in others before they were "
            f"brought to {side} px: traces of the resampling can survive; judge again with "
            f"--canonical-size {smaller}.",
        )


def unreadable_words(seen: Observations) -> Iterator[Finding]:
    """Files that could not be judged."""
    if seen.unreadable:
        named = [f"{reject.path}: {reject.reason}" for reject in seen.unreadable]
        yield Finding(
            "warning",
            "unreadable",
            f"{counted(len(named), 'file')} cannot be read and will be left out of a cache "
            f"({listing(named, 2)}).",
        )
