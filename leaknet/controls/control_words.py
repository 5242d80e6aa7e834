"""What the classifiers found, in words: file facts and thumbnails, known and unknown."""

from __future__ import annotations

from collections.abc import Mapping
from math import isnan

from leaknet.controls.closed_control import ClosedControl
from leaknet.controls.findings import Finding, area, listing, percent
from leaknet.controls.metadata import SIZES, WORDS
from leaknet.controls.open_control import OpenControl
from leaknet.intervals import Interval

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
    figures = _closed_figures(control)
    most = f", {clearest} above all (AUC {judged[clearest]:.2f})" if given_away else ""
    if control.facts.keys() <= SIZES:
        return _sizes_words(control, figures + most)
    if not control.beyond_chance:
        return _open_question(name, "File facts tell", figures, control.macro_auc)
    areas = {fact: accuracy.macro_auc for fact, accuracy in control.facts.items()}
    who, first = _who(areas, control.macro_auc), next(iter(control.facts.values()))
    if who.endswith("alone"):
        figures = f"{percent(first.top1)} (all file facts: {figures})"
    strong = control.macro_auc.low >= STRONG or given_away
    level, verb = ("severe", "identifies") if strong else ("warning", "tells")
    return Finding(level, name, f"{who} {verb} the generator at {figures}{most}: {_CURE}.")


def _sizes_words(control: ClosedControl, figures: str) -> Finding:
    """All files were written alike, so that their length says how busy the pictures are."""
    name = "metadata"
    alike = "Only the length of the files differs, since all were written alike, and it"
    if control.beyond_chance:
        level = "warning" if control.macro_auc.low >= 0.6 else "note"
        return Finding(
            level,
            name,
            f"{alike} tells the generator at {figures}: some generators' pictures are plainer or "
            "smoother than others'; a model must do better than that to have found more.",
        )
    return _open_question(name, "The length of the files tells", figures, control.macro_auc)


def thumbnail_words(control: ClosedControl) -> Finding:
    """Colour and layout, and the known generators."""
    name = "thumbnail"
    figures = _closed_figures(control)
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
    return _open_question(name, "An 8×8 thumbnail tells", figures, control.macro_auc)


def shuffle_words(name: str, control: ClosedControl) -> Finding:
    """Whether shuffled labels stay at chance, as they must."""
    mean = sum(s.macro_auc for s in control.shuffled) / len(control.shuffled)
    top1 = sum(s.top1 for s in control.shuffled) / len(control.shuffled)
    figures = f"top-1 {percent(top1)} (chance {percent(control.chance)}), macro AUC {mean:.2f}"
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
        f"On shuffled labels the {name} classifier is at chance: {figures}.",
    )


def open_metadata_words(control: OpenControl) -> Finding:
    """File facts, known against unknown."""
    name = "open metadata"
    if not control.facts:
        return Finding("note", name, "The files of known and unknown generators say the same.")
    figures = _open_figures(control)
    strong = _separates(control, STRONG)
    if not (strong or control.beyond_chance):
        return _open_question(name, "File facts tell known from unknown", figures, control.auroc)
    who, first = _who(control.facts, control.auroc), next(iter(control.facts.values()))
    if who.endswith("alone"):
        figures = f"AUROC {first:.2f} (all file facts: {figures})"
    level, verb = ("severe", "separates") if strong else ("warning", "tells")
    return Finding(level, name, f"{who} {verb} the open set at {figures}: {_CURE}.")


def open_thumbnail_words(control: OpenControl) -> Finding:
    """Colour and layout, known against unknown."""
    name = "open thumbnail"
    figures = _open_figures(control)
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
    return _open_question(name, "An 8×8 thumbnail tells known from unknown", figures, control.auroc)


def _separates(control: OpenControl, level: float) -> bool:
    each = control.generators.values()
    return control.auroc.low >= level or any(one.low >= GIVEN_AWAY for one in each)


def _open_question(control: str, what: str, figures: str, interval: Interval) -> Finding:
    """At chance for certain, or too few images to say so."""
    if interval.high > UNDECIDED:
        sentence = f"{what} at {figures}: too few images to exclude a leak; add prompts."
        return Finding("unsure", control, sentence)
    return Finding("note", control, f"{what} at chance: {figures}.")


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
