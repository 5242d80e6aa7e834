"""A branch of the model: an encoder of some cache columns, with gate and prototypes on top.

Each branch classifies on its own; `leaknet.model.fusion` weights their scores.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn

from leaknet.config import HeadConfig
from leaknet.data.columns import ImageColumns, ShuffledWindows
from leaknet.data.training_data import TrainingData
from leaknet.model.head import Gate, LinearHead, PrototypeHead

HELD_OUT = "held_out_embedding"
"""Column of images that a closed form was fitted to: embeddings by fits without their prompt
group, which a branch with a closed form returns in place of its own."""


@dataclass(frozen=True)
class Sampler:
    """Inputs of `Branch.forward` for training images.

    Attributes:
        sample: from rows, views and a noise generator to inputs.
        windows: order in which images are to be taken where not all are in memory.
    """

    sample: Callable[[Int64[Tensor, "batch"], Int64[Tensor, "batch"], torch.Generator], Tensor]
    windows: ShuffledWindows | None = None

    def __call__(
        self, rows: Int64[Tensor, "batch"], views: Int64[Tensor, "batch"], noise: torch.Generator
    ) -> Tensor:
        """Inputs of these images."""
        return self.sample(rows, views, noise)


@dataclass(frozen=True)
class BranchOutput:
    """Output of one branch for a batch.

    Attributes:
        logits: per class, higher = nearer to that generator.
        embedding: h̄, before the gate.
        attention: a_t of each noise step, rows sum to 1; one column of ones without steps.
        gate: w, each in (0, 1]; all 1 without a gate.
        distances: d to every prototype; no prototype axis entries with a linear head.
    """

    logits: Float[Tensor, "batch class"]
    embedding: Float[Tensor, "batch dimension"]
    attention: Float[Tensor, "batch step"]
    gate: Float[Tensor, "batch part"]
    distances: Float[Tensor, "batch class prototype"]


class Branch(nn.Module, ABC):
    """A complete classifier of images.

    Attributes:
        gate: on the class part of the embedding; None without.
        head: from the gated class part to class scores.
        dimension: length of the class part.
    """

    name: ClassVar[str]
    gate: Gate | None
    head: PrototypeHead | LinearHead
    dimension: int

    def add_head(self, config: HeadConfig, classes: int) -> None:
        """Create gate and head with initial weights."""
        self.dimension = dimension = config.dimension
        self.gate = Gate(dimension) if config.gate else None
        self.head = (
            PrototypeHead(dimension, classes, config.prototypes)
            if config.prototypes
            else LinearHead(dimension, classes)
        )

    @property
    def device(self) -> torch.device:
        """Where the branch computes."""
        return next(self.parameters()).device

    @property
    def size(self) -> int:
        """Fitted numbers."""
        return sum(values.numel() for values in self.parameters())

    @property
    def width(self) -> int:
        """Length of the embedding."""
        return self.dimension

    @abstractmethod
    def columns(self, *, training: bool) -> tuple[str, ...]:
        """Cache columns that the branch reads."""

    @abstractmethod
    def fit(
        self, data: TrainingData, classes: tuple[str, ...]
    ) -> tuple[Sampler, Float[Tensor, "image dimension"] | None]:
        """Fit what has a closed form.

        Returns:
            The sampler that gradient descent trains on; and embeddings of the validation images,
            each by a fit without its prompt group, where the closed form is fitted to them too.
        """

    @abstractmethod
    def forward(
        self, inputs: Tensor
    ) -> tuple[Float[Tensor, "batch dimension"], Float[Tensor, "batch step"]]:
        """Embedding h̄ and attention a, from the inputs of a sampler."""

    @abstractmethod
    def embed(
        self, images: ImageColumns
    ) -> tuple[Float[Tensor, "image dimension"], Float[Tensor, "image step"]]:
        """Embedding and attention of images in evaluation, the same in any batch."""

    def class_part(
        self, embedding: Float[Tensor, "*batch dimension"]
    ) -> Float[Tensor, "*batch part"]:
        """The part of h̄ that gate and prototypes read, `dimension` values."""
        return embedding

    def density_part(
        self, embedding: Float[Tensor, "image dimension"]
    ) -> Float[Tensor, "image coordinate"] | None:
        """Coordinates of one unit for density detectors; None for the embedding itself."""
        return None

    def evidence(
        self, embedding: Float[Tensor, "image dimension"]
    ) -> Float[Tensor, "image"] | None:
        """Highest log-likelihood ratio of a known source; None for a branch without sources."""
        return None

    def source_logits(
        self, embedding: Float[Tensor, "image dimension"], images: Float[Tensor, "own dimension"]
    ) -> Float[Tensor, "image"] | None:
        """Logits of a class enrolled from `images`; None where its prototypes decide."""
        return None

    def enrol(self, embedding: Float[Tensor, "image dimension"]) -> None:
        """Add what the branch knows of sources besides the prototypes of the new class."""

    def attribute(self, inputs: Tensor) -> BranchOutput:
        """Embed and classify the inputs of a sampler."""
        return self.classify(*self(inputs))

    def classify(
        self, embedding: Float[Tensor, "batch dimension"], attention: Float[Tensor, "batch step"]
    ) -> BranchOutput:
        """Gate and score embeddings h̄ in full precision; `attention` is passed on."""
        with torch.autocast(embedding.device.type, enabled=False):
            read = self.class_part(embedding)
            gate = torch.ones_like(read) if self.gate is None else self.gate(read)
            logits, distances = self.head(read, gate)
        return BranchOutput(logits, embedding, attention, gate, distances)
