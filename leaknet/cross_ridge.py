"""Kernel ridge regression, its strength chosen by leaving prompt groups out.

With fewer images than features the regression is solved in the space of images: with the Gram
matrix G = Z Zᵀ and A = (G + λI)⁻¹ T, the weights are Zᵀ A. What the images of group g would score
had it been left out follows in closed form, T_g - [(G + λI)⁻¹]_gg⁻¹ A_g (Pahikkala et al., "Fast
n-fold cross-validation for regularized least-squares", 2006).

Whole groups are left out, since the images of one prompt, one by each generator, give each other
away: seven that are labelled leave one answer for the eighth.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Shaped

STRENGTHS = tuple(np.logspace(-3, 1, 13).tolist())
"""λ over the mean eigenvalue of the Gram matrix."""


@dataclass(frozen=True)
class CrossRidge:
    """A linear regression without intercept.

    Attributes:
        weights: from features to outputs.
        held_out: outputs of the training images, each by a fit without its group.
        strength: the λ chosen, over the mean eigenvalue of the Gram matrix.
        error: mean square of what `held_out` misses.
    """

    weights: Float[np.ndarray, "feature output"]
    held_out: Float[np.ndarray, "image output"]
    strength: float
    error: float


def cross_ridge(
    features: Float[np.ndarray, "image feature"],
    wanted: Float[np.ndarray, "image output"],
    groups: Shaped[np.ndarray, "image"],
) -> CrossRidge:
    """Fit; time grows with the cube of the number of images, memory with its square.

    Args:
        features: centred.
        wanted: what each image should give, centred.
        groups: prompt group of each.
    """
    gram = (features @ features.T).astype(np.float64)
    values, vectors = np.linalg.eigh(gram)
    values = np.maximum(values, 0)
    rotated = vectors.T @ wanted
    members = [np.flatnonzero(groups == group) for group in np.unique(groups)]
    best: CrossRidge | None = None
    for strength in STRENGTHS:
        inverse = 1 / (values + strength * max(values.mean(), 1e-12))
        dual = vectors @ (inverse[:, None] * rotated)
        held_out = wanted - _residuals(vectors, inverse, dual, members)
        error = float(np.square(held_out - wanted).mean())
        if best is None or error < best.error:
            best = CrossRidge(features.T @ dual, held_out, strength, error)
    assert best is not None
    return best


def _residuals(
    vectors: Float[np.ndarray, "image image"],
    inverse: Float[np.ndarray, "image"],
    dual: Float[np.ndarray, "image output"],
    members: list[np.ndarray],
) -> Float[np.ndarray, "image output"]:
    """Targets less what a fit without each image's group predicts."""
    found = np.empty_like(dual)
    for rows in members:
        block = (vectors[rows] * inverse) @ vectors[rows].T
        found[rows] = np.linalg.solve(block, dual[rows])
    return found
