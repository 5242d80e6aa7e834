"""What the three detectors that look at the logits alone have in common.

They learn nothing: `fit` checks what it is given, as everywhere, and remembers the number of
classes.
"""

from __future__ import annotations

from typing import TypeVar

import numpy as np
from jaxtyping import Float64, Int

from leakcache.errors import ScoringError
from leaknet.data.embeddings import Embeddings
from leaknet.detectors.base import Detector
from leaknet.detectors.fold_detectors_closed_set import require_closed

_D = TypeVar("_D", bound="LogitDetector")


class LogitDetector(Detector):
    """A function of the prototype logits of each image."""

    classes_: Int[np.ndarray, ""]

    def fit(self: _D, train: Embeddings, val: Embeddings) -> _D:
        """Remember how many classes there are."""
        require_closed(train, val)
        self.classes_ = np.array(len(train.classes))
        return self

    def logits(self, e: Embeddings) -> Float64[np.ndarray, "n class"]:
        """The logits in float64; ScoringError for embeddings of a run with other classes."""
        self.require_fit()
        if e.logits.shape[1] != self.classes_:
            raise ScoringError(
                f"the detector {self.name} knows {self.classes_} classes but the embeddings "
                f"have {e.logits.shape[1]}: score with the run that made them"
            )
        return e.logits.astype(np.float64)
