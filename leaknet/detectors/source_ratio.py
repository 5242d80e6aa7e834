"""The evidence of a two-covariance model that an image has a known source."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
from jaxtyping import Float64

from leaknet.data.embeddings import Embeddings
from leaknet.detectors.logits import LogitDetector


class SourceRatio(LogitDetector):
    """Highest log-likelihood ratio of a known source (`leaknet.model.two_covariance`).

    For a model without a two-covariance model it is the highest logit.
    """

    name: ClassVar[str] = "source_ratio"

    def score_samples(self, e: Embeddings) -> Float64[np.ndarray, "n"]:
        """Evidence of each image."""
        logits = self.logits(e)
        return logits.max(axis=1) if e.evidence is None else e.evidence.astype(np.float64)
