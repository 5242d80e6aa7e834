"""A branch of the model: an encoder of some cache columns, temporal attention, gate and prototypes.

Each branch classifies on its own; `leaknet.model.fusion` weights their scores. Attention, gate and
heads lead from the embeddings of T steps to class scores.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn

from leaknet.config import HeadConfig
from leaknet.data.columns import ImageColumns, ShuffledWindows, TrainingData

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


TEMPERATURES = (0.5, 5.0)
INITIAL_SPREAD = 0.1
"""Initial spread of prototypes around a class centre, relative to random initialisation."""


class TemporalAttention(nn.Module):
    """a_t = softmax_t(qᵀ(W h_t + b)), h̄ = Σ_t a_t h_t (the paper, Eq. 6-7).

    Without attention the weights are equal. While training, each step is left out with
    probability `dropout`, but never all of them.
    """

    def __init__(self, dimension: int, *, attend: bool, dropout: float) -> None:
        super().__init__()
        self.dropout = dropout
        self.key = nn.Linear(dimension, dimension) if attend else None
        if attend:
            self.query = nn.Parameter(torch.randn(dimension) / math.sqrt(dimension))

    def forward(
        self, h: Float[Tensor, "batch step dimension"]
    ) -> tuple[Float[Tensor, "batch dimension"], Float[Tensor, "batch step"]]:
        """Pooled embedding h̄ and the weights a; the weights of an image sum to 1."""
        scores = h.new_zeros(h.shape[:2]) if self.key is None else self.key(h) @ self.query
        if self.training and self.dropout > 0:
            scores = scores.masked_fill(self._left_out(scores), -math.inf)
        attention = scores.softmax(dim=1)
        return torch.einsum("bt,btd->bd", attention, h), attention

    def _left_out(self, scores: Float[Tensor, "batch step"]) -> Tensor:
        chance = torch.rand_like(scores)
        return (chance < self.dropout) & (chance < chance.amax(dim=1, keepdim=True))


class Gate(nn.Module):
    """w = σ(A h̄ + b): how much each feature counts for this image, in (0, 1)."""

    def __init__(self, dimension: int) -> None:
        super().__init__()
        self.linear = nn.Linear(dimension, dimension)

    def forward(self, pooled: Float[Tensor, "batch dimension"]) -> Float[Tensor, "batch dimension"]:
        """The weights w."""
        weights: Tensor = self.linear(pooled).sigmoid()
        return weights


class PrototypeHead(nn.Module):
    """M prototypes a class; the class of the nearest one wins.

    d_{c,m} = Σ_i w_i (h̄_i − p_{c,m,i})², logit_c = +τ logsumexp_m(−d_{c,m} / τ). The paper's
    Eq. 10-11, as printed, would let the farthest class win.
    """

    def __init__(self, dimension: int, classes: int, prototypes: int) -> None:
        super().__init__()
        spread = 1 / math.sqrt(dimension)
        self.prototypes = nn.Parameter(spread * torch.randn(classes, prototypes, dimension))
        self.log_temperature = nn.Parameter(torch.zeros(()))

    @property
    def temperature(self) -> Float[Tensor, ""]:
        """τ, kept within `TEMPERATURES`."""
        low, high = TEMPERATURES
        return self.log_temperature.clamp(math.log(low), math.log(high)).exp()

    @torch.no_grad()
    def start_at(self, centres: Float[Tensor, "class dimension"]) -> None:
        """Move the initial prototypes of each class around its centre."""
        self.prototypes.mul_(INITIAL_SPREAD).add_(centres[:, None])

    @torch.no_grad()
    def project(self) -> None:
        """Move τ back within its bounds, where its gradient does not vanish."""
        low, high = TEMPERATURES
        inside = 1e-6  # more than the rounding of the bounds to single precision
        self.log_temperature.clamp_(math.log(low) + inside, math.log(high) - inside)

    def forward(
        self,
        pooled: Float[Tensor, "batch dimension"],
        weights: Float[Tensor, "batch dimension"],
    ) -> tuple[Float[Tensor, "batch class"], Float[Tensor, "batch class prototype"]]:
        """Logits and the distances d they come from."""
        offsets = pooled[:, None, None] - self.prototypes
        distances = torch.einsum("bd,bcmd->bcm", weights, offsets.square())
        temperature = self.temperature
        logits = temperature * torch.logsumexp(-distances / temperature, dim=-1)
        return logits, distances


class LinearHead(nn.Module):
    """A linear layer on w ⊙ h̄, for the ablation without prototypes (Table 3)."""

    def __init__(self, dimension: int, classes: int) -> None:
        super().__init__()
        self.linear = nn.Linear(dimension, classes)

    def project(self) -> None:
        """There is no temperature to keep within bounds."""

    def forward(
        self,
        pooled: Float[Tensor, "batch dimension"],
        weights: Float[Tensor, "batch dimension"],
    ) -> tuple[Float[Tensor, "batch class"], Float[Tensor, "batch class prototype"]]:
        """Logits, and distances to no prototype at all."""
        logits: Tensor = self.linear(pooled * weights)
        return logits, logits.new_empty((*logits.shape, 0))
