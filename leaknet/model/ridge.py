"""Ridge regression on standardised image statistics, in closed form.

    x → (x - mean) / deviation, clipped to ±3, each family divided by √(its length)
      → linear outputs; the strength is chosen by the error of prompt groups left out

With fewer images than features Z the regression is solved in the space of images: with the Gram
matrix G = Z Zᵀ, C = (G + λI)⁻¹ - (G + λI)⁻¹ 1 1ᵀ (G + λI)⁻¹ / 1ᵀ (G + λI)⁻¹ 1, which stands for an
intercept, and A = C T the weights are Zᵀ A. The outputs that a fit without group g gives for its
images follow in closed form, T_g - C_gg⁻¹ A_g (Pahikkala et al., "Fast n-fold cross-validation for
regularized least-squares", 2006). Whole groups are left out, because images of one prompt reveal
each other's class: seven labelled ones leave one class for the eighth. For the same reason the mean
target of the other groups is taken off: where features say nothing it would give the class away.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Float32, Float64, Shaped
from torch import Tensor, nn

from leakcache.store.cache import Moments

STRENGTHS = tuple(np.logspace(-3, 1, 13).tolist())
"""λ over the mean eigenvalue of the Gram matrix."""
CLIP = 3.0
"""Standard deviations at which features are clipped."""
CONSTANT = 1e-4
"""A statistic whose deviation is below this is constant; its feature is 0."""


@dataclass(frozen=True)
class CrossRidge:
    """A linear regression with an intercept; outputs are those about the mean of the images.

    Attributes:
        dual: weights in the space of the fit; in that of views, A of the weights Zᵀ A.
        offset: outputs of the weights at the mean of the images, to be taken off.
        held_out: outputs of the training images, each by a fit without its group.
        strength: the λ chosen, over the mean eigenvalue of the Gram matrix.
        error: mean squared residual of `held_out`.
    """

    dual: Float64[Tensor, "dimension output"]
    offset: Float64[np.ndarray, " output"]
    held_out: Float[np.ndarray, "image output"]
    strength: float
    error: float


@dataclass(frozen=True)
class _Solution:
    index: int
    dual: Float64[Tensor, "image output"]
    residuals: Float64[Tensor, "image output"]

    @property
    def error(self) -> float:
        return float(self.residuals.square().mean())


def cross_ridge(
    gram: Float64[Tensor, "image image"],
    targets: Float[np.ndarray, "image output"],
    groups: Shaped[np.ndarray, "image"],
) -> CrossRidge:
    """Fit; time grows with the cube of the number of images, memory with its square.

    The strength is searched downhill from the middle of the grid.

    Args:
        gram: Z Zᵀ of features.
        targets: desired outputs, centred.
        groups: prompt group of each image.
    """
    wanted = torch.from_numpy(targets).double()
    members = [torch.from_numpy(np.flatnonzero(groups == group)) for group in np.unique(groups)]
    best = _solve(gram, wanted, members, len(STRENGTHS) // 2)
    for step in (-1, 1):
        start = best
        while 0 <= best.index + step < len(STRENGTHS):
            tried = _solve(gram, wanted, members, best.index + step)
            if tried.error >= best.error:
                break
            best = tried
        if best is not start:
            break
    held_out = (wanted - best.residuals).numpy()
    offset = (gram.mean(dim=0) @ best.dual).numpy()
    return CrossRidge(best.dual, offset, held_out, STRENGTHS[best.index], best.error)


def _solve(
    gram: Float64[Tensor, "image image"],
    targets: Float64[Tensor, "image output"],
    members: Sequence[Tensor],
    index: int,
) -> _Solution:
    """Dual weights and group-out residuals under one strength of the grid."""
    shrunk = gram.clone()
    shrunk.diagonal().add_(STRENGTHS[index] * max(float(gram.diagonal().mean()), 1e-12))
    inverse = torch.cholesky_inverse(torch.linalg.cholesky(shrunk))
    ones = inverse.sum(dim=1)
    inverse.addr_(ones, ones / ones.sum(), alpha=-1)
    dual = inverse @ targets
    if len(members) == 1:
        return _Solution(index, dual, targets)
    residuals = torch.empty_like(dual)
    for rows in members:
        own = torch.linalg.solve(inverse[rows[:, None], rows], dual[rows])
        residuals[rows] = own + mean_of_others(targets.sum(dim=0), len(targets), targets[rows])
    return _Solution(index, dual, residuals)


def mean_of_others(
    total: Float64[Tensor, "output"], count: int, own: Float64[Tensor, "*group view output"]
) -> Float64[Tensor, "*group 1 output"]:
    """Mean target of the views outside each group, of `count` views with this total."""
    return (total - own.sum(dim=-2, keepdim=True)) / (count - own.shape[-2])


class StandardFeatures(nn.Module):
    """Standardised, clipped and weighted statistics; the mean squared norm is at most 1.

    All state is held in buffers.
    """

    mean: Tensor
    scale: Tensor

    def __init__(self, lengths: Mapping[str, int]) -> None:
        """Build for families of these lengths: `fit` or a state dict supplies the values."""
        super().__init__()
        self.lengths = dict(lengths)
        for name in ("mean", "scale"):
            self.register_buffer(name, torch.zeros(sum(lengths.values())))

    def fit(self, statistics: Float[Tensor, "view value"]) -> Float64[Tensor, "view view"]:
        """Take means and deviations from these views; the Gram matrix of their features."""
        gram = torch.zeros(len(statistics), len(statistics), dtype=torch.float64)
        # Family by family, so that features of all of them never lie in memory at once.
        for family in self._families():
            values = statistics[:, family].cpu().float()
            deviation = values.std(dim=0, correction=0)
            gain = torch.where(deviation > CONSTANT, 1 / deviation.clamp_min(CONSTANT), 0.0)
            self.mean[family] = values.mean(dim=0).to(self.mean)
            self.scale[family] = gain.to(self.scale)
            features = self._family(values, family)
            gram += features @ features.T
        return gram

    def set_moments(self, moments: Moments) -> None:
        """Take means and deviations of statistics."""
        deviation = np.sqrt(moments.variance)
        gain = np.where(deviation > CONSTANT, 1 / np.maximum(deviation, CONSTANT), 0.0)
        self.mean.copy_(torch.from_numpy(moments.mean))
        self.scale.copy_(torch.from_numpy(gain))

    def of_block(self, statistics: Float[Tensor, "view value"]) -> Float32[Tensor, "view value"]:
        """As `forward`, on the CPU and with little memory."""
        found = statistics.cpu().float().sub_(self.mean.cpu()).mul_(self.scale.cpu())
        return found.clamp_(-CLIP, CLIP).mul_(family_weights(self.lengths))

    def weights(
        self, statistics: Float[Tensor, "view value"], dual: Float[Tensor, "view output"]
    ) -> Float[Tensor, "value output"]:
        """Zᵀ A: weights from features to outputs, for dual weights A of these views."""
        dual = dual.float()
        parts = [
            self._family(statistics[:, family].cpu().float(), family).T @ dual
            for family in self._families()
        ]
        return torch.cat(parts)

    def forward(self, statistics: Float[Tensor, "*batch value"]) -> Float[Tensor, "*batch value"]:
        """The features."""
        standard = ((statistics.float() - self.mean) * self.scale).clamp(-CLIP, CLIP)
        return standard * family_weights(self.lengths).to(standard.device)

    def _families(self) -> Iterator[slice]:
        start = 0
        for length in self.lengths.values():
            yield slice(start, start + length)
            start += length

    def _family(
        self, values: Float[Tensor, "view part"], family: slice
    ) -> Float[Tensor, "view part"]:
        """As `forward`, of one family, on the CPU."""
        mean, scale = self.mean[family].cpu(), self.scale[family].cpu()
        standard = ((values - mean) * scale).clamp_(-CLIP, CLIP)
        return standard / math.sqrt((family.stop - family.start) * len(self.lengths))


def family_weights(lengths: Mapping[str, int]) -> Float[Tensor, " value"]:
    """1 / √(length of the family · number of families), for each value."""
    each = [
        torch.full((length,), 1 / math.sqrt(length * len(lengths))) for length in lengths.values()
    ]
    return torch.cat(each)


class RidgeMap(nn.Module):
    """From statistics of a view to linear outputs. All state is held in buffers."""

    weight: Tensor
    bias: Tensor

    def __init__(self, lengths: Mapping[str, int]) -> None:
        """Build empty: `leaknet.model.feature_space` and `set_weights`, or a state dict, fill it.

        Args:
            lengths: values of each family, in their order.
        """
        super().__init__()
        self.features = StandardFeatures(lengths)
        self.register_buffer("weight", torch.zeros(sum(lengths.values()), 0))
        self.register_buffer("bias", torch.zeros(0))

    def set_weights(
        self,
        weight: Float[np.ndarray, "value output"],
        bias: Float[np.ndarray, " output"] | None = None,
    ) -> None:
        """Set the weights from features to outputs, and their bias (0 without)."""
        added = np.zeros(weight.shape[1]) if bias is None else bias
        self.weight = torch.from_numpy(weight).to(self.weight)
        self.bias = torch.from_numpy(added).to(self.weight)

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *rest: Any) -> None:
        # The number of outputs is not the model's number of classes: a run with an enrolled class
        # has one class more than this regression.
        outputs = state_dict.get(f"{prefix}bias")
        if outputs is not None:
            self.weight = self.weight.new_zeros(len(self.weight), len(outputs))
            self.bias = self.weight.new_zeros(len(outputs))
        super()._load_from_state_dict(state_dict, prefix, *rest)

    def forward(self, statistics: Float[Tensor, "*batch value"]) -> Float[Tensor, "*batch output"]:
        """The outputs."""
        return self.apply_features(self.features(statistics))

    def apply_features(
        self, features: Float[Tensor, "*batch value"]
    ) -> Float[Tensor, "*batch output"]:
        """The outputs of features."""
        found: Tensor = features @ self.weight + self.bias
        return found
