"""A finding: one plain sentence with the figure and the cure, and how much it matters."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import isnan

import numpy as np

from leakcache.dataset.index import DatasetIndex
from leaknet.audit.control_classifiers import ClosedControl, OpenControl
from leaknet.audit.duplicates import DuplicateSet, blank_images
from leaknet.audit.fact_table import SIZES, WORDS
from leaknet.audit.observations import Observations
from leaknet.metrics.bootstrap import Interval

LEVELS = ("severe", "warning", "unsure", "note")
"""severe: a high score proves nothing until this is cured; warning: read every score beside it;
unsure: there are too few images to tell; note: looked at, nothing to cure."""


@dataclass(frozen=True)
class Finding:
    """One sentence. `control` is where it comes from, `level` one of `LEVELS`."""

    level: str
    control: str
    sentence: str


def by_severity(findings: Iterable[Finding]) -> tuple[Finding, ...]:
    """The gravest first, else in the given order."""
    return tuple(sorted(findings, key=lambda finding: LEVELS.index(finding.level)))


def percent(value: float) -> str:
    """0.9837 as `98.4 %`."""
    return f"{100 * value:.3g} %"


def area(interval: Interval) -> str:
    """A value with its interval: `0.77 [0.75-0.80]`."""
    return f"{interval.value:.2f} [{interval.low:.2f}-{interval.high:.2f}]"


def listing(names: Iterable[str], shown: int = 3) -> str:
    """`a, b, c and 4 more`."""
    names = list(names)
    more = len(names) - shown
    return ", ".join(names[:shown]) + (f" and {more} more" if more > 0 else "")


def counted(number: int, singular: str) -> str:
    """`1 image`, `2,000 images`."""
    return f"{number:,} {singular}" + "s" * (number != 1)


# What the classifiers found, in words: file facts and thumbnails, known and unknown.

STRONG = 0.75
"""A macro AUC or AUROC that is above this for certain gives most of the answer away."""
GIVEN_AWAY = 0.95
"""AUC from which a single generator counts as given away."""
UNDECIDED = 0.65
"""An interval that starts at chance and reaches beyond this leaves the question open."""

_CURE = "canonicalise (--canonical) before you believe the rest"


def metadata_words(control: ClosedControl) -> Finding:
    """File facts and the known generators."""
    name = "metadata"
    if not control.facts:
        return Finding("note", name, "The files of all known generators say the same: no leak.")
    judged = {label: a for label, a in control.per_class_auc.items() if not isnan(a)}
    clearest = max(judged, key=lambda label: judged[label])
    given_away = judged[clearest] >= GIVEN_AWAY
    most = f", {clearest} above all (AUC {judged[clearest]:.2f})" if given_away else ""
    if control.facts.keys() <= SIZES:
        return _sizes_words(control, most)
    figures = _closed_figures(control)
    if not control.beyond_chance:
        return _nothing(name, "file facts", figures, control.macro_auc)
    who = _who({fact: one.macro_auc for fact, one in control.facts.items()}, control.macro_auc)
    strong = control.macro_auc.low >= STRONG or given_away
    level, verb = ("severe", "identifies") if strong else ("warning", "tells")
    if who.endswith("alone"):
        first = next(iter(control.facts.values()))
        figures = f"{percent(first.top1)} top-1; all file facts at {figures}"
    return Finding(level, name, f"{who} {verb} the generator at {figures}{most}: {_CURE}.")


def _sizes_words(control: ClosedControl, most: str) -> Finding:
    """All files were written alike, so that their length says how busy the pictures are."""
    name, figures = "metadata", _closed_figures(control)
    if not control.beyond_chance:
        return _nothing(name, "the length of the files", figures, control.macro_auc)
    return Finding(
        "warning" if control.macro_auc.low >= 0.6 else "note",
        name,
        "Only the length of the files differs, since all were written alike; it tells the "
        f"generator at {figures}{most}: some generators' pictures are plainer or smoother, and a "
        "model must do better than that to have found more.",
    )


def thumbnail_words(control: ClosedControl) -> Finding:
    """Colour and layout, and the known generators."""
    name, figures = "thumbnail", _closed_figures(control)
    if control.macro_auc.low >= 0.9:
        return Finding(
            "severe",
            name,
            f"An 8×8 thumbnail identifies the generator at {figures}: subject, framing or colour "
            "differ by generator; use the same prompts for all before you believe the rest.",
        )
    if control.beyond_chance:
        return Finding(
            "warning",
            name,
            f"An 8×8 thumbnail tells the generator at {figures}: only what a model achieves "
            "beyond this can come from a signal leak.",
        )
    return _nothing(name, "an 8×8 thumbnail", figures, control.macro_auc)


def shuffle_words(name: str, control: ClosedControl) -> Finding:
    """Whether shuffled labels stay at chance, as they must."""
    mean = sum(s.macro_auc for s in control.shuffled) / len(control.shuffled)
    top1 = sum(s.top1 for s in control.shuffled) / len(control.shuffled)
    figures = f"{percent(top1)} top-1 (chance {percent(control.chance)}), macro AUC {mean:.2f}"
    if mean > 0.5 + 3 * control.deviation:
        return Finding(
            "severe",
            "label shuffle",
            f"The {name} classifier learns shuffled labels ({figures}): images of one prompt are "
            "in training and test; mend the groups or the split.",
        )
    return Finding(
        "note",
        "label shuffle",
        f"Shuffled labels leave the {name} classifier at chance: {figures}.",
    )


def open_metadata_words(control: OpenControl) -> Finding:
    """File facts, known against unknown."""
    name, figures = "open metadata", _open_figures(control)
    if not control.facts:
        return Finding("note", name, "The files of known and unknown generators say the same.")
    strong = _separates(control, STRONG)
    if not (strong or control.beyond_chance):
        return _nothing(name, "file facts of known against unknown", figures, control.auroc)
    who, first = _who(control.facts, control.auroc), next(iter(control.facts.values()))
    if who.endswith("alone"):
        figures = f"AUROC {first:.2f}; all file facts at {figures}"
    level, verb = ("severe", "separates") if strong else ("warning", "tells")
    return Finding(level, name, f"{who} {verb} the open set at {figures}: {_CURE}.")


def open_thumbnail_words(control: OpenControl) -> Finding:
    """Colour and layout, known against unknown."""
    name, figures = "open thumbnail", _open_figures(control)
    if _separates(control, 0.9):
        return Finding(
            "severe",
            name,
            f"An 8×8 thumbnail separates the open set at {figures}: its subjects differ from the "
            "known generators'; take an open set of the same prompts.",
        )
    if control.beyond_chance:
        return Finding(
            "warning",
            name,
            f"An 8×8 thumbnail tells the open set at {figures}: so much of an open-set AUROC can "
            "be owed to what the pictures show; match the prompts, or leave known generators out.",
        )
    return _nothing(name, "an 8×8 thumbnail of known against unknown", figures, control.auroc)


def _separates(control: OpenControl, level: float) -> bool:
    each = control.generators.values()
    return control.auroc.low >= level or any(one.low >= GIVEN_AWAY for one in each)


def _nothing(control: str, subject: str, figures: str, interval: Interval) -> Finding:
    """At chance for certain, or too few images to say so."""
    if interval.low > 0.5 or interval.high > UNDECIDED:
        sentence = f"Too few images to exclude that {subject} gives anything away: {figures}."
        return Finding("unsure", control, sentence)
    return Finding("note", control, f"Nothing is told by {subject}: {figures}.")


def _who(areas: Mapping[str, float], all_facts: Interval) -> str:
    """`Width (or height) alone`, or `Metadata (file size above all)` where one is not enough.

    `areas` by fact, best first.
    """
    first, *rest = areas
    best = areas[first]
    if best < all_facts.value - 0.03:
        return f"Metadata ({WORDS[first]} above all)"
    alike = [WORDS[fact] for fact in rest if areas[fact] >= best - 0.005]
    others = f" (or {listing(alike, 2)})" if alike else ""
    name = WORDS[first]
    return f"{name[0].upper()}{name[1:]}{others} alone"


def _closed_figures(control: ClosedControl) -> str:
    return (
        f"{percent(control.top1.value)} top-1 (chance {percent(control.chance)}), "
        f"macro AUC {area(control.macro_auc)}"
    )


def _open_figures(control: OpenControl) -> str:
    each = [f"{name} {one.value:.2f}" for name, one in control.generators.items()]
    parts = f" ({listing(each, 6)})" if len(each) > 1 else ""
    return f"AUROC {area(control.auroc)}{parts}"


# What is wrong with the collection itself, in words: copies, folds, classes, sizes.

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
