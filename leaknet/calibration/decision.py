"""One answer an image, with its reason in words."""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import isnan

from leakcache.dataset.split_file import REAL
from leaknet.calibration.conformal import FAR, LEAST_RANK

KNOWN, FAMILY, UNKNOWN, UNSURE = "known", "family", "unknown", "unsure"
OUTSIDE = "outside"
MIN_TEXTURE = 0.3
"""Mean difference of neighbouring grey values, in 8-bit levels, below which nothing is measured: a
linear gradient over 512 pixels has 0.25, ordinary photographs and generated images 0.7 and more."""
SHOWN = 3
"""Generators of a prediction set that an explanation names."""


@dataclass(frozen=True)
class Decision:
    """What is answered at a stated false-alarm rate α.

    Attributes:
        verdict: `known`, `family`, `unknown`, `unsure` or `outside`.
        generator: the generator or family that is named, `real` for a photograph; empty unless one
            is.
        explanation: why, in words.
    """

    verdict: str
    generator: str
    explanation: str

    @property
    def answer(self) -> str:
        """The verdict as a user reads it."""
        return {
            KNOWN: "real photograph" if self.generator == REAL else f"known: {self.generator}",
            FAMILY: f"of the {self.generator} family",
            UNKNOWN: "unknown generator",
            OUTSIDE: "outside the calibrated range",
        }.get(self.verdict, UNSURE)


def decide(
    p_value: float,
    prediction_set: tuple[str, ...],
    alpha: float,
    smallest_p: float = 0.0,
    family: str = "",
    *,
    generator: str = "",
    weak: bool = False,
    depth: float = 0.0,
    why: str = "",
) -> Decision:
    """The answer for one image.

    An image of a known generator is called unknown with probability α at most, named after another
    known generator with probability α at most, and after another family likewise; all else is
    unsure. An image is outside the calibrated range where its score lies far below all that
    calibration saw, and it would be called unknown or is not only for want of calibrating images.

    Args:
        p_value: that the image comes from a known generator.
        prediction_set: generators that can't be excluded at level α, likeliest first.
        alpha: the false-alarm rate.
        smallest_p: 1 / (n + 1) for n calibration images.
        family: the likeliest, of several generators, if it is probable enough to be named.
        generator: the likeliest, if it is probable enough to be named; see
            `leaknet.calibration.conformal.naming_threshold`.
        weak: its evidence of a known source is too low for a name; see `conformal.LEAST_RANK`.
        depth: of its score; see `leaknet.calibration.conformal.depths`.
        why: how the image differs from those that calibrated, where that is known.
    """
    if p_value <= max(alpha, smallest_p) and depth >= FAR:
        reason = (
            f"{p_words(p_value, smallest_p)}, and its score lies {_times(depth)} as far below "
            f"the median of the calibration images as the lowest of them, at least {FAR:g} times"
        )
        return Decision(OUTSIDE, "", f"{reason}: {why}" if why else reason)
    if p_value <= alpha:
        rank = (
            "is lower than that of every calibration image"
            if p_value <= smallest_p
            else f"ranks in the lowest {100 * p_value:.2g} % of the calibration images"
        )
        reason = f"{p_words(p_value, smallest_p)}, at most {alpha:g}: its score {rank}"
        return Decision(UNKNOWN, "", f"{reason} of known generators")
    if generator and not weak:
        what = "a real photograph" if generator == REAL else "the generator"
        return Decision(KNOWN, generator, f"p > {alpha:g}, and {what} {_enough(alpha)}")
    if family:
        return Decision(FAMILY, family, f"p > {alpha:g}, and the family {_enough(alpha)}")
    reason = f"p > {alpha:g}, but no generator is probable enough to be named"
    if generator:
        reason = (
            f"p > {alpha:g} and {generator} is probable, but the likelihood ratio for a known "
            f"source ranks in the lowest {100 * LEAST_RANK:g} % of the calibration images"
        )
    elif len(prediction_set) > 1:
        reason += f": {len(prediction_set)} remain, {_named(prediction_set)}"
    return Decision(UNSURE, "", reason)


def _times(depth: float) -> str:
    return f"{depth:.2g} times" if depth < 10 else "more than 10 times"


def _enough(alpha: float) -> str:
    return f"is so probable that at most {alpha:g} of the known images are named wrong"


def p_words(p_value: float, smallest_p: float) -> str:
    """A p-value as text; at the smallest that the calibration allows, an upper bound."""
    return f"p ≤ {smallest_p:.2g}" if p_value <= smallest_p else f"p = {p_value:.2g}"


def blank(texture: float) -> Decision | None:
    """The answer for an image without texture, whatever its scores; None for any other image.

    Args:
        texture: see `leakcache.images.preprocess.texture`.
    """
    if texture >= MIN_TEXTURE:
        return None
    return Decision(
        OUTSIDE,
        "",
        f"the image is nearly blank: neighbouring pixels differ by {texture:.2g} levels on "
        f"average, less than {MIN_TEXTURE:g}, so that there is nothing to measure",
    )


def _named(generators: tuple[str, ...]) -> str:
    more = len(generators) - SHOWN
    return ", ".join(generators[:SHOWN]) + (f" and {more} more" if more > 0 else "")


def doubt(decision: Decision, changed: dict[str, str], tried: int) -> Decision:
    """The same decision, or unsure where mild changes to the image change the answer.

    Args:
        decision: for the image as it is.
        changed: the answer after each change of the image that altered it.
        tried: how many changes were tried.
    """
    if decision.verdict in (UNSURE, OUTSIDE) or not changed:
        return decision
    name, answer = next(iter(changed.items()))
    return replace(
        decision,
        verdict=UNSURE,
        generator="",
        explanation=f"{decision.answer} as it is, but {len(changed)} of {tried} mild changes "
        f"alter that ({name}: {answer})",
    )


# Likelihood ratios in words: the scale of the ENFSI guideline for evaluative reporting (2015).

_SCALE = (
    (6.0, "extremely strong"),
    (4.0, "very strong"),
    (3.0, "strong"),
    (2.0, "moderately strong"),
    (1.0, "moderate"),
    (0.301, "weak"),  # a ratio of 2
)


def verbal(log10_ratio: float) -> str:
    """Strength of support, and for which of the two propositions.

    The first is that the generator in question made the image, the other that another known
    generator did.
    """
    if isnan(log10_ratio):
        return "no validation images"
    for least, word in _SCALE:
        if abs(log10_ratio) >= least:
            side = "for it" if log10_ratio > 0 else "against it"
            return f"{word} support {side}"
    return "no support either way"
