"""Highest logit (Hendrycks et al. 2022)."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
from jaxtyping import Float64

from leaknet.data.embeddings import Embeddings
from leaknet.detectors.logits import LogitDetector


class MaxLogit(LogitDetector):
    """The highest prototype logit.

    With this network it is minus the (soft) gated distance to the nearest of the *learned*
    prototypes, so it is also the paper's prototype distance, up to sign.
    """

    name: ClassVar[str] = "logit"

    def score_samples(self, e: Embeddings) -> Float64[np.ndarray, "n"]:
        """The highest logit of each image."""
        highest: Float64[np.ndarray, "n"] = self.logits(e).max(axis=1)
        return highest
