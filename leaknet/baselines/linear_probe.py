"""Baselines on a short vector of measurements, classified by logistic regression.

Vectors are standardised on the training fold; the penalty is the one of `STRENGTHS` with the
lowest validation loss. Logits are log-probabilities.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from typing import ClassVar

import numpy as np
import torch
from jaxtyping import Float, Int
from sklearn.linear_model import LogisticRegression
from torch import Tensor

from leakcache.errors import TrainingError
from leaknet.baselines.base import Baseline, BaselineImages
from leaknet.data.embeddings import Embeddings

Vectors = Float[np.ndarray, "image dimension"]

STRENGTHS = (0.01, 0.1, 1.0, 10.0, 100.0)
"""Candidate inverse strengths of the penalty."""
FLOOR = 1e-6
"""Added to every probability, so that every class stays possible."""
ITERATIONS = 2000


class LinearProbe(Baseline):
    """Logistic regression on a vector of measurements per image."""

    name: ClassVar[str]
    fitted: dict[str, Tensor]

    @abstractmethod
    def measure(self, images: BaselineImages) -> Vectors:
        """The measurements, finite."""

    def fit(self, train: BaselineImages, val: BaselineImages) -> LinearProbe:
        """Fit at every strength; select on `val`, the middle one if `val` is empty.

        Raises:
            TrainingError: the training fold has fewer than two classes.
        """
        targets = train.targets(self.classes)
        if len(np.unique(targets)) < 2:
            raise TrainingError(f"{self.name}: the training fold has fewer than two classes")
        values = self.measure(train)
        centre, spread = values.mean(axis=0), values.std(axis=0)
        scale = np.where(spread > 0, spread, 1.0)
        known, held_out = (values - centre) / scale, (self.measure(val) - centre) / scale
        candidates = [_fitted(known, targets, strength) for strength in STRENGTHS]
        losses = [self._loss(model, held_out, val.targets(self.classes)) for model in candidates]
        best = int(np.argmin(losses)) if len(val) else len(STRENGTHS) // 2
        self.fitted = {"centre": torch.from_numpy(centre), "scale": torch.from_numpy(scale)}
        self.fitted |= candidates[best]
        return self

    def embed(self, images: BaselineImages) -> Embeddings:
        """Standardised measurements and log-probabilities."""
        centre, scale = self.fitted["centre"].numpy(), self.fitted["scale"].numpy()
        vectors = (self.measure(images) - centre) / scale
        return self.embeddings(images, vectors, self._logits(self.fitted, vectors))

    def _logits(
        self, model: Mapping[str, Tensor], vectors: Vectors
    ) -> Float[np.ndarray, "image class"]:
        scores = torch.from_numpy(vectors) @ model["weights"].T + model["bias"]
        probabilities = torch.full((len(vectors), len(self.classes)), FLOOR, dtype=torch.float64)
        probabilities[:, model["present"]] += scores.softmax(dim=1)
        return (probabilities / probabilities.sum(dim=1, keepdim=True)).log().numpy()

    def _loss(
        self, model: Mapping[str, Tensor], vectors: Vectors, targets: Int[np.ndarray, "image"]
    ) -> float:
        logits = self._logits(model, vectors)
        return float(-logits[np.arange(len(targets)), targets].sum())


def _fitted(
    vectors: Vectors, targets: Int[np.ndarray, "image"], strength: float
) -> dict[str, Tensor]:
    model = LogisticRegression(C=strength, max_iter=ITERATIONS).fit(vectors, targets)
    weights, bias = model.coef_, model.intercept_
    if len(model.classes_) == 2:
        # For two classes scikit-learn has one row: the second against the first.
        weights, bias = np.stack([-weights[0], weights[0]]) / 2, np.stack([-bias[0], bias[0]]) / 2
    return {
        "weights": torch.from_numpy(weights),
        "bias": torch.from_numpy(bias),
        "present": torch.from_numpy(model.classes_),
    }
