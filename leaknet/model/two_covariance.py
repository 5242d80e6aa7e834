"""Two-covariance model (PLDA) of image sources, fitted in closed form in the space of images.

    features of an image: x = mean + b + w,  b ~ N(0, B) of its source,  w ~ N(0, W) of the image

With more features than images, W is shrunk towards the covariance of the parts of an image and
towards a multiple of the identity:

    W = (1 - a) S_image + a (tr S_image / tr S_part) S_part + ρ (tr S_image / views) I

S_image is the pooled covariance of images about the mean of their class, S_part that of parts
about the mean of their image. The discriminant directions are the leading eigenvectors of W⁻¹ B,
one fewer than classes, scaled so that W = 1 along each. Only the Gram matrix of the views is
needed, and one Cholesky factorisation of its size.

Along the directions B is diagonal with entries ψ, and each coordinate is independent. With s the
variance of a new image about its source, a class with n images of mean μ has

    posterior of the source:  N(g μ, g s / n),  g = n ψ / (n ψ + s)
    a new image of the class: N(g μ, g s / n + s)
    an image of any source:   N(0, ψ + s)

Sources: Prince and Elder, "Probabilistic linear discriminant analysis", 2007; Brümmer and de
Villiers, "The speaker partitioning problem", 2010. All computation is in float64, deterministic.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Float, Float64, Int64, Shaped
from torch import Tensor

PART_SHARE = 0.5
"""Weight a of the covariance of parts; flat from .3 to .9 on validation (docs/LOG.md)."""
STRENGTH = 0.03
"""ρ: flat from .01 to .1 on validation."""
LEAST_VARIANCE = 1e-3
"""Of ψ, relative to W."""
SPREADS = tuple(np.geomspace(1.0, 64.0, 19).tolist())
"""Candidates of s. Training images lie nearer to the mean of their class than new ones do."""
FOLDS = 4
SEED = 0
TINY = 1e-12


@dataclass(frozen=True)
class Directions:
    """Discriminant directions: coordinates are values @ weights - offset.

    Attributes:
        weights: of the values, which are rows of a Gram matrix k(x) or the features themselves.
        offset: mean of the classes along the directions.
        centres: class means in the coordinates; 0 for a class without images.
        counts: images of each class.
    """

    weights: Float64[Tensor, "value coordinate"]
    offset: Float64[Tensor, "coordinate"]
    centres: Float64[Tensor, "class coordinate"]
    counts: Float64[Tensor, "class"]


@dataclass(frozen=True)
class Sources:
    """Discriminant directions that were fitted to some images.

    Attributes:
        directions: with weights from the space that they were fitted in.
        coordinates: of images at these positions, mean over their parts.
    """

    directions: Directions
    coordinates: Callable[[Int64[Tensor, "k"]], Float64[Tensor, "k coordinate"]]


Subset = tuple[Int64[Tensor, "_"], Int64[Tensor, "_"]]
"""Positions of images, and the class of each, 0 to classes - 1."""
FitSources = Callable[[Sequence[Subset]], list[Sources]]
"""Fits to some of the images alone, one for each subset."""


@dataclass(frozen=True)
class TwoCovariance:
    """The model in its own coordinates, where both covariances are diagonal.

    Attributes:
        variances: ψ, between sources.
        spread: s, of a new image about its source, along every coordinate.
        centres: mean of the known images of each class.
        counts: number of these images; 0 for a class that is not known.
    """

    variances: Float64[Tensor, "coordinate"]
    spread: float | Float64[Tensor, ""]
    centres: Float64[Tensor, "class coordinate"]
    counts: Float64[Tensor, "class"]

    @classmethod
    def of(cls, directions: Directions, spread: float = 1.0) -> TwoCovariance:
        """Estimate ψ by moments of the class means, which W / n inflates."""
        known = directions.counts > 0
        centres, counts = directions.centres[known], directions.counts[known]
        moments = centres.square().sum(dim=0) / max(len(centres) - 1, 1)
        variances = (moments - (1 / counts).mean()).clamp_min(LEAST_VARIANCE)
        return cls(variances, spread, directions.centres, directions.counts)

    def with_spread(self, spread: float) -> TwoCovariance:
        """The same model under another spread."""
        return replace(self, spread=spread)

    def log_likelihood_ratios(
        self, coordinates: Float[Tensor, "image coordinate"]
    ) -> Float64[Tensor, "image class"]:
        """Log p(image | class) - log p(image | any source); 0 for a class without images."""
        x, (means, predictive) = coordinates.double(), self._predictive()
        inside = (
            x.square() @ (1 / predictive).T
            - 2 * x @ (means / predictive).T
            + (means.square() / predictive + predictive.log()).sum(dim=1)
        )
        total = self.variances + self.spread
        outside = (x.square() / total + total.log()).sum(dim=1)
        return (outside[:, None] - inside) / 2

    def margin_form(
        self,
        coordinates: Float[Tensor, " coordinate"],
        factors: Float64[Tensor, "class"],
    ) -> tuple[Float64[Tensor, " coordinate"], Float64[Tensor, ""]]:
        """Weights w and constant b: Σ_c factor_c · ratio_c = w · coordinates + b.

        Where the classes have different numbers of images the sum is quadratic, and w depends on
        the coordinates.

        Args:
            coordinates: of one image.
            factors: of the ratios; they sum to 0.
        """
        means, variances = self._predictive()
        curved = (factors[:, None] / variances).sum(dim=0)
        weights = (factors[:, None] * means / variances).sum(dim=0) - curved * coordinates / 2
        constants = (means.square() / variances + variances.log()).sum(dim=1)
        return weights, -(factors @ constants) / 2

    def _predictive(
        self,
    ) -> tuple[Float64[Tensor, "class coordinate"], Float64[Tensor, "class coordinate"]]:
        """Mean and variance of a new image of each class."""
        weighted = self.counts[:, None] * self.variances
        gain = weighted / (weighted + self.spread)
        predictive = self.variances * self.spread / (weighted + self.spread) + self.spread
        return gain * self.centres, predictive

    def same_source(
        self, first: Float[Tensor, "image coordinate"], second: Float[Tensor, "other coordinate"]
    ) -> float:
        """Log-likelihood ratio that two sets of new images, each of one source, share it."""
        a, b = first.double().mean(dim=0), second.double().mean(dim=0)
        p = self.variances + self.spread / len(first)
        q = self.variances + self.spread / len(second)
        return float(_pair_ratio(a, b, p, q, self.variances))

    def pairwise(
        self, coordinates: Float[Tensor, "image coordinate"]
    ) -> Float64[Tensor, "image image"]:
        """`same_source` of every two single images; symmetric."""
        x, total = coordinates.double(), self.variances + self.spread
        rows = [_pair_ratio(row, x, total, total, self.variances) for row in x]
        return torch.stack(rows) if rows else x.new_zeros(0, 0)

    def enrol(self, coordinates: Float[Tensor, "image coordinate"]) -> TwoCovariance:
        """The same model with one more class, known by these images."""
        mean = coordinates.double().mean(dim=0, keepdim=True).to(self.centres)
        count = self.counts.new_tensor([len(coordinates)])
        return replace(
            self,
            centres=torch.cat([self.centres, mean]),
            counts=torch.cat([self.counts, count]),
        )


def _pair_ratio(a: Tensor, b: Tensor, p: Tensor, q: Tensor, shared: Tensor) -> Tensor:
    """Log N([a b]; 0, [[p, shared], [shared, q]]) - log N(a; 0, p) - log N(b; 0, q), summed."""
    determinant = p * q - shared.square()
    joint = (q * a.square() - 2 * shared * a * b + p * b.square()) / determinant
    apart = a.square() / p + b.square() / q
    return (apart - joint + p.log() + q.log() - determinant.log()).sum(dim=-1) / 2


class _Scatter:
    """R, of which W without its multiple of the identity is (R Z)ᵀ (R Z), for features Z."""

    def __init__(
        self, gram: Float64[Tensor, "view view"], targets: Int64[Tensor, "image"], parts: int
    ) -> None:
        images, classes = len(targets), int(targets.max()) + 1
        self.parts, self.targets = parts, targets
        self.counts = torch.bincount(targets, minlength=classes).double()
        member = torch.nn.functional.one_hot(targets, classes).double()
        self.average = member / self.counts
        degrees = max(images - classes, 1)
        image_gram = self.over_parts(self.over_parts(gram).T)
        class_gram = self.average.T @ image_gram @ self.average
        about_class = image_gram.diagonal().sum() - class_gram.diagonal() @ self.counts
        about_image = gram.diagonal().sum() - parts * image_gram.diagonal().sum()
        self.trace = max(float(about_class) / degrees, TINY)
        share = PART_SHARE if parts > 1 and float(about_image) > TINY else 0.0
        self.of_images = math.sqrt((1 - share) / degrees / parts)
        self.of_parts = math.sqrt(share * self.trace / float(about_image)) if share else 0.0

    def over_parts(self, rows: Float64[Tensor, "view k"]) -> Float64[Tensor, "image k"]:
        """Means over the parts of each image."""
        return rows.reshape(len(self.targets), self.parts, -1).mean(dim=1)

    def __call__(self, rows: Float64[Tensor, "view k"]) -> Float64[Tensor, "view k"]:
        """R @ rows; R is symmetric."""
        means = self.over_parts(rows)
        centred = means - (self.average.T @ means)[self.targets]
        own = rows.reshape(len(means), self.parts, -1) - means[:, None]
        return (self.of_images * centred[:, None] + self.of_parts * own).reshape(rows.shape)


def fit_directions(
    gram: Float64[Tensor, "view view"],
    targets: Int64[Tensor, "image"],
    parts: int = 1,
) -> Directions:
    """Fit the discriminant directions; time grows with the cube of the number of views.

    Args:
        gram: Z Zᵀ, image by image with `parts` views each; it need not be centred.
        targets: class of each image, 0 to classes - 1, each of which occurs.
        parts: views of one image.
    """
    scatter = _Scatter(gram, targets, parts)
    ridge = STRENGTH * scatter.trace / len(gram)
    inner = scatter(scatter(gram).T.contiguous())
    inner = (inner + inner.T) / 2
    inner.diagonal().add_(ridge)
    factor = torch.linalg.cholesky(inner)
    between = (scatter.average.T / parts).repeat_interleave(parts, dim=1)
    mean = between.mean(dim=0)
    between = between - mean
    between_gram = between @ gram
    solved = torch.cholesky_solve(scatter(between_gram.T.contiguous()), factor)
    dual = (between - scatter(solved).T) / ridge  # W⁻¹ (class mean - mean), by Woodbury
    return leading_directions(dual.T, mean @ gram, between_gram, scatter.counts)


def leading_directions(
    solved: Float64[Tensor, "value class"],
    mean: Float64[Tensor, "value"],
    between: Float64[Tensor, "class value"],
    counts: Float64[Tensor, "class"],
) -> Directions:
    """Eigenvectors of W⁻¹ B along which W = 1, the strongest first.

    Args:
        solved: W⁻¹ (class mean - mean), as weights of the values.
        mean: values of the mean of the class means.
        between: values of each class mean, less the mean.
        counts: images of each class.
    """
    matrix = between @ solved
    values, vectors = torch.linalg.eigh((matrix + matrix.T) / 2)
    values, vectors = values.flip(0)[: len(between) - 1], vectors.flip(1)[:, : len(between) - 1]
    scale = torch.where(values > TINY, values.clamp_min(TINY).rsqrt(), 0.0)
    weights = solved @ vectors * scale
    # The sign of an eigenvector is arbitrary: the largest weight is made positive.
    largest = weights.abs().argmax(dim=0)
    weights = weights * weights[largest, torch.arange(weights.shape[1])].sign()
    return Directions(weights, mean @ weights, between @ weights, counts)


@dataclass(frozen=True)
class HeldOut:
    """What fits without the prompt group of an image say of it.

    Attributes:
        directions: of the fit to all images.
        coordinates: rotated so that the class means lie where those of all images do.
        ratios: under `spread`.
        evidence: the highest ratio under the spread that `held_out` was called with.
        spread: s under which the classes of these images are likeliest.
        folds: fold of each image.
    """

    directions: Directions
    coordinates: Float64[Tensor, "image coordinate"]
    ratios: Float64[Tensor, "image class"]
    evidence: Float64[Tensor, "image"]
    spread: float
    folds: Int64[Tensor, "image"]


def held_out(
    fit: FitSources,
    targets: Int64[Tensor, "image"],
    groups: Shaped[np.ndarray, "image"],
    spreads: tuple[float, ...] = SPREADS,
    evidence_spread: float = 1.0,
) -> HeldOut:
    """Cross-validate over prompt groups, in at most four folds.

    A class that has no images outside a fold has ratio 0 in it; where fewer than two have any,
    coordinates are 0.

    Args:
        fit: to some of the images.
        targets: class of each image, 0 to classes - 1, each of which occurs.
        groups: prompt group of each image.
        spreads: candidates of s.
        evidence_spread: s of the evidence.
    """
    folds, classes = group_folds(groups), int(targets.max()) + 1
    everything = torch.arange(len(targets))
    held, known, subsets = [], [], [(everything, targets)]
    for fold in range(int(folds.max()) + 1):
        outside = torch.nonzero(folds != fold)[:, 0]
        labels, own = torch.unique(targets[outside], return_inverse=True)
        if len(labels) > 1:
            held.append(torch.nonzero(folds == fold)[:, 0])
            known.append(labels)
            subsets.append((outside, own))
    of_all, *without = fit(subsets)
    whole = of_all.directions
    aligned = whole.weights.new_zeros(len(targets), whole.weights.shape[1])
    own_fits = []
    for inside, labels, sources in zip(held, known, without, strict=True):
        coordinates, model = sources.coordinates(inside), TwoCovariance.of(sources.directions)
        aligned[inside] = coordinates @ _rotation(model.centres, whole.centres[labels])
        own_fits.append((inside[:, None], labels, coordinates, model))

    def ratios(spread: float) -> Float64[Tensor, "image class"]:
        found = torch.zeros(len(targets), classes, dtype=torch.float64)
        for inside, labels, coordinates, model in own_fits:
            own = model.with_spread(spread)
            found[inside, labels] = own.log_likelihood_ratios(coordinates)
        return found

    likelihoods = [
        float(ratios(spread).log_softmax(dim=1)[everything, targets].sum()) for spread in spreads
    ]
    best = spreads[int(np.argmax(likelihoods))]
    evidence = ratios(evidence_spread).amax(dim=1)
    return HeldOut(whole, aligned, ratios(best), evidence, best, folds)


def _rotation(
    centres: Float64[Tensor, "class k"], wanted: Float64[Tensor, "class coordinate"]
) -> Float64[Tensor, "k coordinate"]:
    """Orthonormal rows that bring class means nearest to others (orthogonal Procrustes)."""
    left, _, right = torch.linalg.svd(centres.T @ wanted, full_matrices=False)
    found: Tensor = left @ right
    return found


def group_folds(groups: Shaped[np.ndarray, "image"], folds: int = FOLDS) -> Int64[Tensor, "image"]:
    """Fold of each image, equal within a prompt group; a single group is one fold."""
    names, number = np.unique(groups, return_inverse=True)
    order = np.random.default_rng(SEED).permutation(len(names)) % min(folds, len(names))
    return torch.from_numpy(order[number]).long()


def views_of(images: Int64[Tensor, "image"], parts: int) -> Int64[Tensor, "view"]:
    """Rows of the views of these images."""
    return (images[:, None] * parts + torch.arange(parts)).flatten()
