"""Patterns whose excess in an image supports a class.

A family of patch covariances is a matrix logarithm L, and its part of the margin is ⟨V, L - M⟩ with
a symmetric matrix V of weights and the mean M of the training images (after clipping). With the
eigenvectors p of V and their eigenvalues λ it is exactly Σ λ pᵀ(L - M)p: a sum over patch patterns
p of λ times the log-energy of the pattern in excess of the mean. The terms
of the residual's power spectrum belong to frequencies.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import sqrt

import numpy as np
import torch
from jaxtyping import Float, Float64
from torch import Tensor

from leakcache.statistics import patch_covariance
from leakcache.statistics.pixel_features import family_slice
from leakcache.statistics.residual_families import HALF, TILE
from leaknet.explain.contributions import MarginWeights
from leaknet.model.ridge import family_weights

PATCHES = {
    "colour_covariance": (patch_covariance.COLOUR_SIDE, 3),
    "luma_covariance": (patch_covariance.LUMA_SIDE, 1),
    "normalised_luma": (patch_covariance.NORMALISED_SIDE, 1),
    "normalised_residual": (patch_covariance.LUMA_SIDE, 1),
    "odd_luma": (patch_covariance.LUMA_SIDE, 1),
}
"""Side and planes of the patches of each family of patch covariances."""
SPECTRUM = "residual_spectrum"
PLANES = ("luma", "blue chroma", "red chroma")


@dataclass(frozen=True)
class Pattern:
    """One pattern and what it adds to the margin.

    Attributes:
        family: of statistics.
        words: what the pattern is.
        image: the pattern, 0 = its mean; planes are luma, or red, green and blue.
        contribution: exact term of the margin; positive for the first class.
        excess: of the pattern in this image against the mean of the training images, in the
            family's units (log energy for patches); of the strongest value for frequencies.
        of: the family's whole term of the margin.
        spectrum: terms by frequency, lowest first, of the plane with the largest; None for patches.
    """

    family: str
    words: str
    image: Float64[np.ndarray, "row column plane"]
    contribution: float
    excess: float
    of: float
    spectrum: Float64[np.ndarray, "down across"] | None = None


def patterns(
    weights: MarginWeights, statistics: Float[Tensor, "1 part value"]
) -> tuple[Pattern, ...]:
    """The strongest pattern of the patch family that adds most, and the strongest frequency.

    Only terms of the regression on originals at native resolution are drawn; they are means over
    the image and its quarters.
    """
    ridge = weights.branch.ridge
    features = weights.branch.features_of(statistics)[0].mean(dim=0).double()
    delta = weights.original * weights.of(ridge)
    shares = family_weights(ridge.features.lengths).double()
    found = []
    for kinds in (tuple(PATCHES), (SPECTRUM,)):
        slices = {name: family_slice(name) for name in kinds}
        terms = {name: float((features * delta)[part].sum()) for name, part in slices.items()}
        name = max(terms, key=lambda one: abs(terms[one]))
        part, gain = slices[name], ridge.features.scale.cpu().double() * shares
        draw = _frequency if name == SPECTRUM else _patch
        found.append(draw(name, _Terms(features[part].cpu(), delta[part].cpu(), gain[part])))
    return tuple(found)


@dataclass(frozen=True)
class _Terms:
    """A family: its features, their weights in the margin, and features of one unit."""

    features: Float64[Tensor, " value"]
    delta: Float64[Tensor, " value"]
    gain: Float64[Tensor, " value"]

    @property
    def excess(self) -> Float64[Tensor, " value"]:
        """Statistics less their mean, clipped, in their own units; 0 for constant ones."""
        return torch.where(self.gain > 0, self.features / self.gain, 0.0)

    @property
    def sum(self) -> float:
        """Term of the whole family."""
        return float(self.features @ self.delta)


def _patch(family: str, terms: _Terms) -> Pattern:
    side, planes = PATCHES[family]
    excess = _matrix(terms.excess, planes * side**2)
    values, vectors = torch.linalg.eigh(_matrix(terms.delta * terms.gain, planes * side**2))
    energies = torch.einsum("ik,ij,jk->k", vectors, excess, vectors)
    best = int((values * energies * _sign(terms.sum)).argmax())
    pattern = vectors[:, best].reshape(planes, side, side).permute(1, 2, 0).numpy()
    pattern = pattern * _sign(float(pattern.flat[np.abs(pattern).argmax()]))
    words = f"{side}×{side} pixels of {'colour' if planes == 3 else 'luma'}"
    contribution, energy = float(values[best] * energies[best]), float(energies[best])
    return Pattern(family, words, pattern, contribution, energy, terms.sum)


def _matrix(values: Float64[Tensor, " entry"], size: int) -> Float64[Tensor, "{size} {size}"]:
    """The symmetric matrix whose inner product with another one is that of their vectors."""
    rows, columns = torch.triu_indices(size, size)
    found = values.new_zeros(size, size)
    found[rows, columns] = torch.where(rows == columns, values, values / sqrt(2))
    return found + found.triu(1).mT


def _frequency(family: str, terms: _Terms) -> Pattern:
    by_frequency = (terms.features * terms.delta).reshape(-1, HALF, HALF)
    best = int((by_frequency * _sign(terms.sum)).argmax())
    plane, row, column = (int(i) for i in np.unravel_index(best, by_frequency.shape))
    excess, wave = float(terms.excess[best]), _cosine(row, column)
    words = f"{PLANES[plane]}, frequency ({row}, {column}) cycles in {TILE} pixels"
    contribution, spectrum = float(by_frequency[plane, row, column]), by_frequency[plane].numpy()
    return Pattern(family, words, wave[:, :, None], contribution, excess, terms.sum, spectrum)


def _cosine(row: int, column: int, side: int = 16) -> Float64[np.ndarray, "{side} {side}"]:
    angle = 2 * np.pi / TILE * np.arange(side)
    found: np.ndarray = np.cos(row * angle[:, None] + column * angle)
    return found


def _sign(value: float) -> float:
    return -1.0 if value < 0 else 1.0
