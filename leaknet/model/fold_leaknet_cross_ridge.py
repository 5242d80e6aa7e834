"""Kernel ridge regression, its strength chosen by leaving prompt groups out.

With fewer images than features Z the regression is solved in the space of images: with the Gram
matrix G = Z Zᵀ and A = (G + λI)⁻¹ T, the weights are Zᵀ A. What the images of group g would score
had it been left out follows in closed form, T_g - [(G + λI)⁻¹]_gg⁻¹ A_g (Pahikkala et al., "Fast
n-fold cross-validation for regularized least-squares", 2006).

Whole groups are left out, since the images of one prompt, one by each generator, give each other
away: seven that are labelled leave one answer for the eighth.

The strength is looked for downhill from the middle of a grid: too weak and too strong, both err
more.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Float64, Shaped
from torch import Tensor

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
