"""Findings on the collection: duplicates, groups, classes, native sizes, unreadable files."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence

import numpy as np

from leakcache.dataset.index import DatasetIndex
from leaknet.audit.duplicates import DuplicateSet, blank_images
from leaknet.audit.findings import Finding, counted, listing
from leaknet.audit.observations import Observations

IMBALANCE = 3
"""Largest ratio of class sizes without a warning."""
MANY = 0.01
"""Fraction of duplicates among all images from which they change a score noticeably."""
FEW = 10
"""Training images below which a class is too small."""


def duplicate_findings(
    observations: Observations, exact: Sequence[DuplicateSet], near: Sequence[DuplicateSet]
) -> Iterator[Finding]:
    """Duplicates across closed and open set, labels and folds, and within one fold.

    Blank images, which are all equal, have one finding of their own.
    """
    blank = blank_images(observations.phashes)
    equal = [s for s in exact if not blank[s.rows[0]]]
    yield from _crossing(observations, equal, "equal files")
    yield from _crossing(observations, [s for s in near if len(s.groups) > 1], "near duplicates")
    same_prompt = [s for s in near if len(s.groups) == 1]
    if same_prompt:
        yield Finding(
            "note",
            "duplicates",
            f"{_sets_of('near duplicates', same_prompt, observations)} within one prompt group "
            "each, as the same prompt and initial noise give: no leak.",
        )
    if not exact and not near:
        yield Finding("note", "duplicates", "No image occurs twice.")
    rows = np.flatnonzero(blank)
    if len(rows):
        yield Finding(
            "warning",
            "blank images",
            f"{counted(len(rows), 'image')} of one colour "
            f"({listing(observations.paths[rows].tolist())}), as a safety filter produces: "
            "remove them.",
        )


def _crossing(
    observations: Observations, sets: Sequence[DuplicateSet], kind: str
) -> Iterator[Finding]:
    """One finding per kind of crossing; a set counts for the most harmful one."""
    crossings: tuple[tuple[Callable[[DuplicateSet], bool], str, str], ...] = (
        (lambda s: s.crosses_sets, "in both closed and open set", "remove them from the open set"),
        (
            lambda s: s.crosses_labels,
            "with different labels",
            "an image has one generator: keep one or neither",
        ),
        (lambda s: s.crosses_folds, "in different folds", "keep one, or give them one group"),
    )
    rest = list(sets)
    for crosses, what, cure in crossings:
        matching = [s for s in rest if crosses(s)]
        rest = [s for s in rest if not crosses(s)]
        if matching:
            copies = sum(len(s.rows) for s in matching)
            known_in_open = kind == "equal files" and matching[0].crosses_sets
            level = "severe" if known_in_open or copies > MANY * len(observations) else "warning"
            sentence = f"{_sets_of(kind, matching, observations)} {what}: {cure}."
            yield Finding(level, "duplicates", sentence)
    if rest:
        sentence = f"{_sets_of(kind, rest, observations)} within one class and fold: no leak."
        yield Finding("note", "duplicates", sentence)


def _sets_of(kind: str, sets: Sequence[DuplicateSet], observations: Observations) -> str:
    """`2 sets of equal files (a = b, ...)`: of the first set, one image per label and fold."""
    labels, folds = observations.labels, observations.folds
    rows = {(labels[row], folds[row]): row for row in reversed(sets[0].rows)}
    shown = sorted(rows.values()) if len(rows) > 1 else sets[0].rows
    example = " = ".join(observations.paths[list(shown[:3])].tolist())
    return f"{counted(len(sets), 'set')} of {kind} ({example}{', ...' * (len(sets) > 1)})"


def collection_findings(index: DatasetIndex, observations: Observations) -> Iterator[Finding]:
    """Groups across folds, prompts of one generator only, class sizes, names in both sets."""
    yield from _group_findings(index)
    if len(index.classes) < 2:
        yield Finding(
            "severe",
            "classes",
            f"{counted(len(index.classes), 'known generator')}: attribution needs two or more; "
            "add images of others.",
        )
        return
    closed = index.select("closed").records
    counts = Counter(record.label for record in closed if record.fold == "train")
    tiny = [f"{label} ({counts[label]})" for label in index.classes if counts[label] < FEW]
    if tiny:
        yield Finding(
            "warning",
            "classes",
            f"{counted(len(tiny), 'generator')} with fewer than {FEW} training images "
            f"({listing(tiny)}): remove them or add images.",
        )
    largest, smallest = max(counts.values(), default=0), min(counts.values(), default=0)
    if smallest and largest > IMBALANCE * smallest:
        yield Finding(
            "warning",
            "classes",
            f"The largest class has {largest} training images and the smallest {smallest}: "
            "read balanced accuracy and macro AUC, not top-1.",
        )
    unknown = set(observations.labels[observations.unknown].tolist())
    if both := sorted(unknown & set(index.classes)):
        yield Finding(
            "warning",
            "classes",
            f"The open set and the closed set share the class name {listing(both)}: "
            "if it is the same generator, it is not unknown.",
        )


def _group_findings(index: DatasetIndex) -> Iterator[Finding]:
    if index.crossing_groups:
        yield Finding(
            "severe",
            "groups",
            f"{counted(len(index.crossing_groups), 'prompt group')} with images in several folds "
            f"({listing(index.crossing_groups)}): a model can memorise the prompt; move each "
            "group into one fold.",
        )
    owners: dict[str, set[str]] = {}
    for record in index.select("closed").records:
        owners.setdefault(record.group, set()).add(record.label)
    if len(index.classes) > 1 and owners and max(map(len, owners.values())) == 1:
        yield Finding(
            "warning",
            "groups",
            "No prompt is shared between generators: image content can identify them; if prompts "
            "are shared, name them in the group column of an index file.",
        )


def native_size_findings(observations: Observations, side: int) -> Iterator[Finding]:
    """On the canonical track: different native sizes, whose resampling traces can survive."""
    short = observations.native.min(axis=1)
    labels = observations.labels
    medians = {int(np.median(short[labels == label])) for label in set(labels.tolist())}
    low, high = min(medians, default=0), max(medians, default=0)
    if low != high and low < 2 * side:
        smaller = max(64, low // 2 // 8 * 8)
        yield Finding(
            "warning",
            "native size",
            f"Native size is {low} px for some generators and {high} px for others, the canonical "
            f"size {side} px: traces of the resampling can survive; repeat with "
            f"--canonical-size {smaller}.",
        )


def unreadable_findings(observations: Observations) -> Iterator[Finding]:
    """Files that cannot be decoded."""
    if observations.unreadable:
        named = [f"{reject.path}: {reject.reason}" for reject in observations.unreadable]
        yield Finding(
            "warning",
            "unreadable",
            f"{counted(len(named), 'file')} cannot be read; a cache will omit them "
            f"({listing(named, 2)}).",
        )
