"""Findings of the controls and on the collection: one sentence each with figure, cure and level."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import isnan

import numpy as np

from leakcache.dataset.index import DatasetIndex
from leaknet.audit.control_classifiers import ClosedControl, OpenControl
from leaknet.audit.file_facts import FACT_NAMES, SIZES
from leaknet.audit.observations import DuplicateSet, Observations, blank_images
from leaknet.metrics.summary import Interval

LEVELS = ("severe", "warning", "unsure", "note")
"""severe: a high score proves nothing until this is cured; warning: compare every score with this
figure; unsure: too few images to decide; note: checked, nothing to cure."""

STRONG = 0.75
"""Lower end of the interval of a macro AUC or AUROC from which a control is severe."""
IDENTIFIED = 0.95
"""AUC from which a single generator counts as identified."""
UNDECIDED = 0.65
"""Upper end of an interval around chance above which a control is undecided."""

_CURE = "use --canonical before you trust any other score"


@dataclass(frozen=True)
class Finding:
    """One sentence. `control` names its source, `level` is one of `LEVELS`."""

    level: str
    control: str
    sentence: str


def by_severity(findings: Iterable[Finding]) -> tuple[Finding, ...]:
    """Most severe first, otherwise in the given order."""
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


def metadata_finding(control: ClosedControl) -> Finding:
    """File facts of the known generators."""
    name, figures = "metadata", _closed_figures(control)
    if not control.facts:
        return Finding("note", name, "The files of all known generators have equal facts: no leak.")
    areas = {label: a for label, a in control.per_class_auc.items() if not isnan(a)}
    best = max(areas, key=lambda label: areas[label])
    identified = areas[best] >= IDENTIFIED
    if identified:
        figures += f", best for {best} (AUC {areas[best]:.2f})"
    sizes_only = control.facts.keys() <= SIZES
    if not control.beyond_chance:
        features = "file sizes" if sizes_only else "file facts"
        return _at_chance(name, f"{features} identify the generator", figures, control.macro_auc)
    if sizes_only:
        return Finding(
            "warning" if control.macro_auc.low >= 0.6 else "note",
            name,
            "Only the size of the files differs, since all have the same coding; it identifies the "
            f"generator at {figures}: some generators' images are smoother, and a model must "
            "exceed this score.",
        )
    facts = _best_facts({f: one.macro_auc for f, one in control.facts.items()}, control.macro_auc)
    if facts.endswith("alone"):
        first = next(iter(control.facts.values()))
        figures = f"{percent(first.top1)} top-1; all file facts at {figures}"
    level = "severe" if control.macro_auc.low >= STRONG or identified else "warning"
    return Finding(level, name, f"{facts} identifies the generator at {figures}: {_CURE}.")


def thumbnail_finding(control: ClosedControl) -> Finding:
    """Thumbnails of the known generators."""
    name, figures = "thumbnail", _closed_figures(control)
    sentence = f"An 8×8 thumbnail identifies the generator at {figures}"
    if control.macro_auc.low >= 0.9:
        cure = "subject, framing or colour differ by generator; use the same prompts for all"
        return Finding("severe", name, f"{sentence}: {cure}.")
    if control.beyond_chance:
        cure = "only what a model achieves beyond this can come from a signal leak"
        return Finding("warning", name, f"{sentence}: {cure}.")
    return _at_chance(name, "8×8 thumbnails identify the generator", figures, control.macro_auc)


def shuffle_finding(name: str, control: ClosedControl) -> Finding:
    """Score of a control on shuffled labels, which must be at chance."""
    mean = control.mean_shuffled
    figures = (
        f"{percent(mean.top1)} top-1 (chance {percent(control.chance)}), "
        f"macro AUC {mean.macro_auc:.2f}"
    )
    if mean.macro_auc > 0.5 + 3 * control.standard_error:
        return Finding(
            "severe",
            "label shuffle",
            f"The {name} classifier learns shuffled labels ({figures}): images of one prompt are "
            "in training and test; correct the groups or the split.",
        )
    sentence = f"With shuffled labels the {name} classifier stays at chance: {figures}."
    return Finding("note", "label shuffle", sentence)


def open_metadata_finding(control: OpenControl) -> Finding:
    """File facts of known against unknown images."""
    name, figures = "open metadata", _open_figures(control)
    if not control.facts:
        sentence = "The files of known and unknown generators have equal facts."
        return Finding("note", name, sentence)
    strong = _separates(control, STRONG)
    if not (strong or control.beyond_chance):
        return _at_chance(name, "file facts separate the open set", figures, control.auroc)
    facts, first = _best_facts(control.facts, control.auroc), next(iter(control.facts.values()))
    if facts.endswith("alone"):
        figures = f"AUROC {first:.2f}; all file facts at {figures}"
    level = "severe" if strong else "warning"
    return Finding(level, name, f"{facts} separates the open set at {figures}: {_CURE}.")


def open_thumbnail_finding(control: OpenControl) -> Finding:
    """Thumbnails of known against unknown images."""
    name, figures = "open thumbnail", _open_figures(control)
    sentence = f"An 8×8 thumbnail separates the open set at {figures}"
    if _separates(control, 0.9):
        cure = "its subjects differ from the known generators'; use an open set of the same prompts"
        return Finding("severe", name, f"{sentence}: {cure}.")
    if control.beyond_chance:
        cure = (
            "image content can account for this much of an open-set AUROC; match the prompts, or "
            "leave known generators out"
        )
        return Finding("warning", name, f"{sentence}: {cure}.")
    return _at_chance(name, "8×8 thumbnails separate the open set", figures, control.auroc)


def _separates(control: OpenControl, level: float) -> bool:
    each = control.generators.values()
    return control.auroc.low >= level or any(one.low >= IDENTIFIED for one in each)


def _at_chance(control: str, claim: str, figures: str, interval: Interval) -> Finding:
    """A control at chance, or one with too few images to decide."""
    if interval.low > 0.5 or interval.high > UNDECIDED:
        return Finding("unsure", control, f"Too few images to exclude that {claim}: {figures}.")
    return Finding("note", control, f"No evidence that {claim}: {figures}.")


def _best_facts(areas: Mapping[str, float], all_facts: Interval) -> str:
    """`Width (or height) alone`, or `Metadata (file size most of all)` if no fact suffices.

    `areas` by fact, best first.
    """
    first, *rest = areas
    name = FACT_NAMES[first]
    if areas[first] < all_facts.value - 0.03:
        return f"Metadata ({name} most of all)"
    equal = [FACT_NAMES[fact] for fact in rest if areas[fact] >= areas[first] - 0.005]
    others = f" (or {listing(equal, 2)})" if equal else ""
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
