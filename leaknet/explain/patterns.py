"""Patterns of statistics, and places of latents, whose excess in an image supports a class."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from math import sqrt

import numpy as np
import torch
from jaxtyping import Float, Float64
from scipy.stats import spearmanr
from torch import Tensor

from leakcache.statistics import patch_covariance
from leakcache.statistics.pixel_families import HALF, TILE
from leakcache.statistics.pixel_features import family_slice
from leaknet.data.columns import ImageColumns
from leaknet.explain.contributions import MarginWeights
from leaknet.model.branch import PrototypeHead
from leaknet.model.latent_branch import LatentBranch
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

    A family of patch covariances is a matrix logarithm L, and its part of the margin is ⟨V, L - M⟩
    with a symmetric matrix V of weights and the mean M of the training images (after clipping).
    With the eigenvectors p of V and their eigenvalues λ it is exactly Σ λ pᵀ(L - M)p: a sum over
    patch patterns p of λ times the log-energy of the pattern in excess of the mean. Terms of the
    residual's power spectrum belong to frequencies.

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


STEPS = 32
BLOCKS = 8
"""Blocks in a row that the deletion check takes out."""


@dataclass(frozen=True)
class LatentMap:
    """Integrated gradients of one image.

        a_i = (z_i - b_i) · mean over s of ∂ margin / ∂ z_i at b + s (z - b),  0 < s < 1

    for clean latents z, the channel means b of the training latents, and the noise of the
    evaluation (Sundararajan, Taly and Yan, "Axiomatic attribution for deep networks", 2017). The
    sum of all a_i is the margin less that of b, up to the error of the mean over s.

    Attributes:
        values: sum over channels, for each view and place of the latent.
        margin: of the branch for the image.
        baseline: the same for the channel means.
    """

    values: Float[np.ndarray, "view row column"]
    margin: float
    baseline: float

    @property
    def gap(self) -> float:
        """Relative difference of the sum of the map from `margin` - `baseline`; 0 is exact."""
        difference = self.margin - self.baseline
        return abs(float(self.values.sum()) - difference) / max(abs(difference), 1e-12)


class LatentMargin:
    """The margin between two classes as a function of the views of one clean latent."""

    def __init__(self, branch: LatentBranch, image: ImageColumns, pair: tuple[int, int]) -> None:
        self.branch, self.pair = branch, pair
        self.z0 = image.z0[0].to(branch.device).float()
        noise = branch.evaluation_noise(image.hashes.tolist(), image.views)
        self.noise = None if noise is None else noise.to(branch.device)

    def __call__(self, z0: Float[Tensor, "view channel row column"]) -> Float[Tensor, ""]:
        """The margin."""
        pooled, attention = self.branch(self.branch.features(z0, self.noise))
        mean = pooled.mean(dim=0, keepdim=True)
        logits = self.branch.classify(mean, attention.mean(dim=0, keepdim=True)).logits[0]
        return logits[self.pair[0]] - logits[self.pair[1]]

    @property
    def baseline(self) -> Float[Tensor, "view channel row column"]:
        """Channel means of the training latents; those of the image where the run has none."""
        affine = self.branch.features.latent
        signal, offset = affine.signal[0], affine.offset[0]
        means = -offset / torch.where(signal == 0, 1.0, signal)
        return means.expand_as(self.z0).clone()


def integrated_gradients(margin: LatentMargin, steps: int = STEPS) -> LatentMap:
    """The map of one image; the branch is in evaluation mode."""
    start, end = margin.baseline, margin.z0
    total = torch.zeros_like(end)
    for step in range(steps):
        point = (start + (step + 0.5) / steps * (end - start)).requires_grad_()
        (gradient,) = torch.autograd.grad(margin(point), point)
        total += gradient
    values = ((end - start) * total / steps).sum(dim=1)
    with torch.inference_mode():
        found, empty = float(margin(end)), float(margin(start))
    return LatentMap(values.double().cpu().numpy(), found, empty)


def shuffled_agreement(margin: LatentMargin, found: LatentMap, draws: int) -> float | None:
    """Median |rank correlation| with maps of a branch whose last weights are shuffled.

    The weights of the projection and of the prototypes or the linear head change places at random
    (Adebayo et al., "Sanity checks for saliency maps", 2018).
    """
    if np.ptp(found.values) == 0:
        return None
    agreements = []
    for seed in range(draws):
        other = copy.copy(margin)
        other.branch = _shuffled(margin.branch, seed)
        values = integrated_gradients(other, STEPS // 4).values
        if np.ptp(values):
            agreements.append(abs(float(spearmanr(found.values, values, axis=None).statistic)))
    return float(np.median(agreements)) if agreements else None


@torch.no_grad()
def _shuffled(branch: LatentBranch, seed: int) -> LatentBranch:
    generator = torch.Generator().manual_seed(seed)
    found = copy.deepcopy(branch)
    head = found.head
    last = head.prototypes if isinstance(head, PrototypeHead) else head.linear.weight
    for weight in (found.projection.weight, last):
        order = torch.randperm(weight.numel(), generator=generator).to(weight.device)
        weight.copy_(weight.flatten()[order].view_as(weight))
    return found


@torch.inference_mode()
def deletion(margin: LatentMargin, found: LatentMap, draws: int) -> tuple[float, float]:
    """Drop of the margin where the most important blocks are replaced by the channel means.

    Returns:
        The drop for the quarter of blocks with the highest sum of the map, and the mean drop for
        as many blocks at random.
    """
    height, width = found.values.shape[1:]
    rows, columns = min(BLOCKS, height), min(BLOCKS, width)
    owner = torch.from_numpy(
        np.arange(height)[:, None] * rows // height * columns + np.arange(width) * columns // width
    )
    sums = np.zeros(rows * columns)
    np.add.at(sums, owner.numpy().ravel(), found.values.sum(axis=0).ravel())
    count = max(1, len(sums) // 4)

    def drop(blocks: np.ndarray) -> float:
        gone = torch.isin(owner, torch.from_numpy(blocks)).to(margin.z0.device)
        return found.margin - float(margin(torch.where(gone, margin.baseline, margin.z0)))

    rng = np.random.default_rng(0)
    chance = [drop(rng.choice(len(sums), count, replace=False)) for _ in range(draws)]
    return drop(np.argsort(-sums, kind="stable")[:count]), float(np.mean(chance))
