"""Findings of the controls: one sentence each with the figure, the cure and a level."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from math import isnan

from leaknet.audit.control_classifiers import ClosedControl, OpenControl
from leaknet.audit.fact_table import FACT_NAMES, SIZES
from leaknet.metrics.bootstrap import Interval

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
