"""What the classifiers found, in words: file facts and thumbnails, known and unknown."""

from __future__ import annotations

from collections.abc import Mapping
from math import isnan

from leaknet.audit.control_classifiers import ClosedControl
from leaknet.audit.fact_table import SIZES, WORDS
from leaknet.audit.findings import Finding, area, listing, percent
from leaknet.audit.fold_controls_open_control import OpenControl
from leaknet.metrics.bootstrap import Interval

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
