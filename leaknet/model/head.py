"""From the embeddings of T steps to class scores: attention, gate, prototypes."""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor, nn

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
