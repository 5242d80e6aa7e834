"""Interface of a compared method: construct it, fit it on closed images, embed any images.

    baseline = Method(classes, options)  # raises WeightsError if weights are missing
    baseline.fit(train, val)             # closed folds; all choices are made on `val`
    baseline.embed(images)               # closed, open or degraded images

Rules for an implementation (CONTRIBUTING.md has the recipe):

- Read pixels with `images.pixels(cut)`: they are decoded once and stored. Results of a frozen
  network go through `images.derived(...)` or `images.extract(...)`: stored by content hash. The
  spec contains all that they depend on. Noise depends on seed and content hash only.
- `options.seed` determines every random draw, without the global generator. Folds can be tiny:
  a batch of one image or a class without validation images must not fail.
- An embedding depends on its image alone, not on the batch or on other images.
- Weights are safetensors only. Missing ones raise WeightsError in the constructor, with the cure.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from leaknet.baselines.images import BaselineImages
from leaknet.data.embeddings import Embeddings

__all__ = ["Baseline", "BaselineImages", "BaselineOptions"]

CPU = torch.device("cpu")


@dataclass(frozen=True)
class BaselineOptions:
    """Options of `leak bench`, equal for all methods.

    Attributes:
        weights: folder of local weights; None for the hub.
        epochs: passes over the training fold; None for the method's own number.
        seed: of all random draws.
        device: where to compute.
        precision: of trained networks, "fp32" or "bf16" under autocast.
        folder: of this method and seed, for checkpoints; None for no checkpoints.
    """

    weights: Path | None = None
    epochs: int | None = None
    seed: int = 0
    device: torch.device = CPU
    precision: str = "fp32"
    folder: Path | None = None


class Baseline(ABC):
    """One compared method.

    Attributes:
        name: of its row and in `--methods`; lower case and dashes.
        classes: the known generators, in the order of the logits.
        options: of `leak bench`.
        fitted: tensors that `fit` sets, by name; None for a method without a state.
    """

    name: ClassVar[str]
    fitted: dict[str, Tensor] | None = None

    def __init__(self, classes: tuple[str, ...], options: BaselineOptions) -> None:
        """Raises WeightsError if weights are missing."""
        self.classes = classes
        self.options = options

    @abstractmethod
    def fit(self, train: BaselineImages, val: BaselineImages) -> Baseline:
        """Fit on the training fold; settings and epoch are chosen on `val`.

        Raises:
            TrainingError: the loss is not finite, or the folds have too few classes or images.
        """

    @abstractmethod
    def embed(self, images: BaselineImages) -> Embeddings:
        """One row per image, in the given order.

        `vectors` (n, D) are the classifier's input, for the open-set detectors; `logits` (n, K)
        are class scores in the order of `classes`, higher for the likelier class.
        """

    @property
    @abstractmethod
    def parameters(self) -> int:
        """Number of weights used in embedding an image, frozen ones included."""

    def state(self) -> Mapping[str, Tensor] | None:
        """Fitted tensors by name, for reuse on other images; None if `fit` must run again."""
        return self.fitted

    def restore(self, state: Mapping[str, Tensor]) -> Baseline:
        """Load a state instead of fitting."""
        self.fitted = dict(state)
        return self

    def embeddings(
        self,
        images: BaselineImages,
        vectors: Float[np.ndarray, "n dimension"],
        logits: Float[np.ndarray, "n class"],
    ) -> Embeddings:
        """The result of `embed`; raises ScoringError if a number is not finite."""
        return Embeddings(
            vectors=vectors,
            logits=logits,
            attention=np.ones((len(images), 1)),
            labels=images.labels,
            groups=images.groups,
            folds=images.folds,
            hashes=images.hashes,
            paths=images.paths,
            classes=self.classes,
            run=self.name,
            seed=self.options.seed,
        )
