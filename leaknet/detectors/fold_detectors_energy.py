"""Free energy of the logits (Liu et al. 2020), with its sign turned to our convention."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
from jaxtyping import Float64
from scipy.special import logsumexp

from leaknet.data.embeddings import Embeddings
from leaknet.detectors.logits import LogitDetector


class Energy(LogitDetector):
    """Logsumexp of the logits at temperature 1: minus the energy."""

    name: ClassVar[str] = "energy"

    def score_samples(self, e: Embeddings) -> Float64[np.ndarray, "n"]:
        """Log of the sum over classes of exp(logit)."""
        return np.asarray(logsumexp(self.logits(e), axis=1))
