"""Likelihood ratios in words: the scale of the ENFSI guideline for evaluative reporting (2015)."""

from __future__ import annotations

from math import isnan

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
        return "no validation images to judge by"
    for least, word in _SCALE:
        if abs(log10_ratio) >= least:
            side = "for it" if log10_ratio > 0 else "against it"
            return f"{word} support {side}"
    return "no support either way"
