"""A linear map from statistics of pixels and activations, fitted in closed form.

    x → (x - mean) / deviation, clipped to ±3, each family divided by √(its length)
      → class scores of a ridge regression, or what is a linear function of them

The regression's strength is chosen by leaving prompts out.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Float64, Shaped
from torch import Tensor, nn

# Kernel ridge regression, its strength chosen by leaving prompt groups out.
#
# With fewer images than features Z the regression is solved in the space of images: with the Gram
# matrix G = Z Zᵀ and A = (G + λI)⁻¹ T, the weights are Zᵀ A. What the images of group g would score
# had it been left out follows in closed form, T_g - [(G + λI)⁻¹]_gg⁻¹ A_g (Pahikkala et al., "Fast
# n-fold cross-validation for regularized least-squares", 2006).
#
# Whole groups are left out, since the images of one prompt, one by each generator, give each other
# away: seven that are labelled leave one answer for the eighth.
#
# The strength is looked for downhill from the middle of a grid: too weak and too strong, both err
# more.

STRENGTHS = tuple(np.logspace(-3, 1, 13).tolist())
"""λ over the mean eigenvalue of the Gram matrix."""


@dataclass(frozen=True)
class CrossRidge:
    """A linear regression without intercept.

    Attributes:
        dual: A, of which the weights from features to outputs are Zᵀ A.
        held_out: outputs of the training images, each by a fit without its group.
        strength: the λ chosen, over the mean eigenvalue of the Gram matrix.
        error: mean square of what `held_out` misses.
    """

    dual: Float64[Tensor, "image output"]
    held_out: Float[np.ndarray, "image output"]
    strength: float
    error: float


@dataclass(frozen=True)
class _Solved:
    place: int
    dual: Float64[Tensor, "image output"]
    missed: Float64[Tensor, "image output"]

    @property
    def error(self) -> float:
        return float(self.missed.square().mean())


def cross_ridge(
    gram: Float64[Tensor, "image image"],
    wanted: Float[np.ndarray, "image output"],
    groups: Shaped[np.ndarray, "image"],
) -> CrossRidge:
    """Fit; time grows with the cube of the number of images, memory with its square.

    Args:
        gram: Z Zᵀ of centred features.
        wanted: what each image should give, centred.
        groups: prompt group of each.
    """
    targets = torch.from_numpy(wanted).double()
    members = [torch.from_numpy(np.flatnonzero(groups == group)) for group in np.unique(groups)]
    best = _solved(gram, targets, members, len(STRENGTHS) // 2)
    for way in (-1, 1):
        start = best
        while 0 <= best.place + way < len(STRENGTHS):
            tried = _solved(gram, targets, members, best.place + way)
            if tried.error >= best.error:
                break
            best = tried
        if best is not start:
            break
    return CrossRidge(
        best.dual,
        (targets - best.missed).numpy(),
        STRENGTHS[best.place],
        best.error,
    )


def _solved(
    gram: Float64[Tensor, "image image"],
    wanted: Float64[Tensor, "image output"],
    members: Sequence[Tensor],
    place: int,
) -> _Solved:
    """Dual weights under the strength at a place of the grid, and what held-out groups miss."""
    shrunk = gram.clone()
    shrunk.diagonal().add_(STRENGTHS[place] * max(float(gram.diagonal().mean()), 1e-12))
    inverse = torch.cholesky_inverse(torch.linalg.cholesky(shrunk))
    dual = inverse @ wanted
    missed = torch.empty_like(dual)
    for rows in members:
        missed[rows] = torch.linalg.solve(inverse[rows[:, None], rows], dual[rows])
    return _Solved(place, dual, missed)


CLIP = 3.0
"""Standard deviations: farther off is no stronger evidence."""
CONSTANT = 1e-4
"""A deviation below this is that of a constant, whose value is 0."""


@dataclass(frozen=True)
class Regression:
    """What a regression found.

    Attributes:
        weights: from features to outputs.
        held_out: outputs of the views, each by a fit without its prompt group.
    """

    weights: Float[np.ndarray, "value output"]
    held_out: Float[np.ndarray, "view output"]


class RidgeMap(nn.Module):
    """From statistics of a view to some outputs; all of it are buffers, saved with the model."""

    mean: Tensor
    scale: Tensor
    weight: Tensor
    start: Tensor

    def __init__(self, lengths: Mapping[str, int]) -> None:
        """Build empty: `regress` and its caller, or a state dict, supply values and outputs.

        Args:
            lengths: values of each family, in their order.
        """
        super().__init__()
        self.lengths = dict(lengths)
        length = sum(lengths.values())
        self.register_buffer("mean", torch.zeros(length))
        self.register_buffer("scale", torch.zeros(length))
        self.register_buffer("weight", torch.zeros(length, 0))
        self.register_buffer("start", torch.zeros(0))

    def regress(
        self,
        statistics: Float[Tensor, "view value"],
        wanted: Float[np.ndarray, "view output"],
        groups: Shaped[np.ndarray, "view"],
    ) -> Regression:
        """Take the standardisation from views of images, and find what gives the wanted outputs.

        The caller hands the regression's weights, or what it makes of them, to `place`.

        Args:
            statistics: as stored.
            wanted: what each view should give, centred.
            groups: prompt group of each view.
        """
        gram = torch.zeros(len(statistics), len(statistics), dtype=torch.float64)
        # Family by family, so that features of all of them never lie in memory at once.
        for family in self._families():
            values = statistics[:, family].cpu().float()
            deviation = values.std(dim=0, correction=0)
            gain = torch.where(deviation > CONSTANT, 1 / deviation.clamp_min(CONSTANT), 0.0)
            self.mean[family] = values.mean(dim=0).to(self.mean)
            self.scale[family] = gain.to(self.scale)
            features = self._features(values, family)
            gram += features @ features.T
        found = cross_ridge(gram, wanted, groups)
        dual = found.dual.float()
        weights = [
            self._features(statistics[:, family].cpu().float(), family).T @ dual
            for family in self._families()
        ]
        return Regression(torch.cat(weights).numpy(), found.held_out)

    def place(
        self,
        weight: Float[np.ndarray, "value output"],
        start: Float[np.ndarray, " output"] | None = None,
    ) -> None:
        """Set the weights from features to outputs, and what is added to these (nothing)."""
        added = np.zeros(weight.shape[1]) if start is None else start
        self.weight = torch.from_numpy(weight).to(self.mean)
        self.start = torch.from_numpy(added).to(self.mean)

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *rest: Any) -> None:
        # How many outputs there are is known to whoever fitted the map: a run that a class was
        # enrolled into has one more class than its map.
        outputs = state_dict.get(f"{prefix}start")
        if outputs is not None:
            self.weight = self.mean.new_zeros(len(self.mean), len(outputs))
            self.start = self.mean.new_zeros(len(outputs))
        super()._load_from_state_dict(state_dict, prefix, *rest)

    def features(self, statistics: Float[Tensor, "*batch value"]) -> Float[Tensor, "*batch value"]:
        """Standardised, clipped and weighted statistics; the mean square norm is 1 or less."""
        standard = ((statistics.float() - self.mean) * self.scale).clamp(-CLIP, CLIP)
        return standard * family_weights(self.lengths).to(standard.device)

    def _families(self) -> Iterator[slice]:
        start = 0
        for length in self.lengths.values():
            yield slice(start, start + length)
            start += length

    def _features(
        self, values: Float[Tensor, "view part"], family: slice
    ) -> Float[Tensor, "view part"]:
        """As `features`, of one family, on the processor."""
        mean, scale = self.mean[family].cpu(), self.scale[family].cpu()
        standard = ((values - mean) * scale).clamp_(-CLIP, CLIP)
        return standard / math.sqrt((family.stop - family.start) * len(self.lengths))

    def forward(self, statistics: Float[Tensor, "*batch value"]) -> Float[Tensor, "*batch output"]:
        """The outputs."""
        found: Tensor = self.features(statistics) @ self.weight + self.start
        return found


def family_weights(lengths: Mapping[str, int]) -> Float[Tensor, " value"]:
    """1 / √(length of the family · number of families), for each value."""
    each = [
        torch.full((length,), 1 / math.sqrt(length * len(lengths))) for length in lengths.values()
    ]
    return torch.cat(each)
