"""Both closed forms for more views than a Gram matrix can hold, by conjugate gradients.

Systems (Zᵀ S Z + λ I) X = B are solved without forming a matrix: each iteration reads the features
Z once, block by block, for all systems together. The Nyström approximation of the matrix, from one
pass over a random basis, is the preconditioner: few iterations are left, whatever the number of
views (Frangella, Tropp and Udell, "Randomized Nyström preconditioning", 2023). Time is linear in
the number of views, and memory does not depend on it. Truncation to principal values loses .02 of
top-1 (docs/LOG.md); this loses none of it there.

Predictions without an image's prompt group are those of fits without a fold of prompt groups.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Float32, Float64, Int, Int64, Shaped
from torch import Tensor

from leaknet.model.feature_space import FeatureSpace, Views, view_moments
from leaknet.model.nystrom import Columns, Nystrom
from leaknet.model.ridge import STRENGTHS, CrossRidge, StandardFeatures
from leaknet.model.two_covariance import (
    PART_SHARE,
    STRENGTH,
    TINY,
    Directions,
    Sources,
    Subset,
    group_folds,
    leading_directions,
)

RANK = 512
"""Of the preconditioner."""
TOLERANCE = 5e-4
"""Of the residual, relative to the right-hand side."""
MAX_ITERATIONS = 24
"""A fit that has not converged by then is a more regularised one, chosen by its own error."""
FOLDS = 8
"""Of prompt groups, for predictions of the regression."""
TRIED, TRIED_FOLDS = STRENGTHS[::2], 4
"""Strengths that are tried, and folds that they are tried on."""
MIXED = 8
"""Outputs at most by which the strength is chosen."""
SEED = 0


@dataclass(frozen=True)
class _System:
    """(Zᵀ S Z - Mᵀ diag(c) M + λ I) X = B, over some images.

    S weights the mean of the views of an image by `within` and their deviations by `own`.

    Attributes:
        right: B.
        fitted: images of the system.
        shift: λ.
        within, own: of S.
        means: M.
        weights: c.
    """

    right: Columns
    fitted: Bool[np.ndarray, "image"]
    shift: float
    within: float = 1.0
    own: float = 1.0
    means: Float32[Tensor, "class value"] | None = None
    weights: Float32[Tensor, "class"] | None = None


class StreamingSpace(FeatureSpace):
    """The space of features, which are read as often as needed.

    Attributes:
        features: fitted standardisation.
        views: that are read.
        groups: prompt group of each image.
        energies: squared norm of the mean view of each image, and sum of those of its views.
    """

    def __init__(
        self, features: StandardFeatures, views: Views, groups: Shaped[np.ndarray, "image"]
    ) -> None:
        """Prepare the preconditioners in one pass."""
        self.features, self.views, self.groups = features, views, groups
        self.energies = np.zeros((2, views.images))
        length = len(features.mean)
        generator = torch.Generator().manual_seed(SEED)
        basis = torch.linalg.qr(torch.randn(length, min(RANK, length), generator=generator))[0]
        of_means, of_rest = torch.zeros_like(basis), torch.zeros_like(basis)
        for rows, block in self._blocks():
            parts = block.view(len(rows), views.parts, -1)
            self.energies[0, rows] = parts.mean(dim=1).square().sum(dim=1).numpy()
            self.energies[1, rows] = parts.square().sum(dim=(1, 2)).numpy()
            along = (block @ basis).view(len(rows), views.parts, -1)
            mean = along.mean(dim=1, keepdim=True)
            of_means.addmm_(block.T, mean.expand_as(along).flatten(0, 1))
            of_rest.addmm_(block.T, (along - mean).flatten(0, 1))
        self._gram = Nystrom.of(basis, of_means + of_rest)
        of_images, of_views = self.energies.sum(axis=1)
        within, own, _ = _scatter(of_images, of_views, views.images, views.parts)
        self._scatter = Nystrom.of(basis, within * of_means + own * of_rest)

    @classmethod
    def fit(
        cls, features: StandardFeatures, views: Views, groups: Shaped[np.ndarray, "image"]
    ) -> StreamingSpace:
        """Fit the standardisation to these views, and prepare the rest."""
        features.set_moments(view_moments(views, len(features.mean)))
        return cls(features, views, groups)

    def fit_ridge(self, targets: Float[np.ndarray, "view output"]) -> CrossRidge:
        """Regress; the strength is that of the least held-out error over folds of prompt groups.

        With a single prompt group nothing is held out: predictions are 0, the strength the middle.
        """
        folds, outputs = group_folds(self.groups, FOLDS).numpy(), targets.shape[1]
        count, every = int(folds.max()) + 1, np.ones(len(folds), dtype=bool)
        wanted = torch.from_numpy(targets).float().view(self.views.images, -1, outputs)
        constant = torch.nn.functional.pad(wanted, (0, 1), value=1.0)
        by_fold = self._products(lambda rows: _apart(constant[rows], folds[rows], count))
        parts = by_fold.reshape(-1, count, outputs + 1)
        total = parts.sum(dim=1)
        held_out = torch.zeros_like(wanted)
        strength = STRENGTHS[len(STRENGTHS) // 2]
        systems = [_centred_system(total, wanted, every, self._shift(strength))]
        if count > 1:
            rest = [(total - parts[:, fold], wanted, folds != fold) for fold in range(count)]
            strength = self._best_strength(rest[:TRIED_FOLDS], wanted, folds)
            systems = [
                _centred_system(*system, self._shift(strength))
                for system in ((total, wanted, every), *rest)
            ]
        found = self._solve(systems, self._gram)
        offsets = _at_means(systems, found)
        if count > 1:
            for rows, predicted in self._predict(found[:, outputs:], np.arange(len(folds))):
                own = (predicted - offsets[outputs:]).reshape(len(rows), -1, count, outputs)
                held_out[rows] = own[torch.arange(len(rows)), :, torch.from_numpy(folds[rows])]
        error = float((held_out - wanted).square().mean())
        dual, offset = found[:, :outputs].double(), offsets[:outputs].double().numpy()
        return CrossRidge(dual, offset, held_out.flatten(0, 1).double().numpy(), strength, error)

    def fit_sources(self, subsets: Sequence[Subset]) -> list[Sources]:
        """Fit each subset, all at the same time; see `leaknet.model.two_covariance`."""
        if not subsets:
            return []
        classes = [int(targets.max()) + 1 for _, targets in subsets]
        column = np.full((self.views.images, len(subsets)), sum(classes))
        for number, (images, targets) in enumerate(subsets):
            column[images.numpy(), number] = targets.numpy() + sum(classes[:number])

        def members(rows: Int[np.ndarray, "k"]) -> Float32[Tensor, "k part column"]:
            found = torch.zeros(len(rows), sum(classes) + 1)
            found.scatter_(1, torch.from_numpy(column[rows]), 1 / self.views.parts)
            return found[:, None, :-1].expand(-1, self.views.parts, -1)

        sums = self._products(members).T
        prepared = [
            self._source_system(subset, own)
            for subset, own in zip(subsets, torch.split(sums, classes), strict=True)
        ]
        solved = self._solve([system for system, _, _ in prepared], self._scatter)
        found = []
        for (system, middle, counts), part in zip(
            prepared, torch.split(solved, classes, dim=1), strict=True
        ):
            between = system.right.T.double()
            directions = leading_directions(part.double(), middle.double(), between, counts)
            found.append(Sources(directions, self._coordinates(directions)))
        return found

    def weights(self, inside: Float64[Tensor, "dimension output"]) -> Float[Tensor, "value output"]:
        """The same weights."""
        return inside.float()

    def _shift(self, strength: float) -> float:
        """λ of a strength: relative to the mean squared norm of a view."""
        return strength * max(float(self.energies[1].sum()) / len(self.views), TINY)

    def _best_strength(
        self,
        without: Sequence[tuple[Columns, Tensor, Bool[np.ndarray, "image"]]],
        wanted: Float32[Tensor, "image part output"],
        folds: Int[np.ndarray, "image"],
    ) -> float:
        """The strength of the least error of the images of some folds, by fits without each.

        Many outputs are mixed at random into a few: the expected order of the errors is the same.

        Args:
            without: products, targets and images of the fit without each of the first folds.
            wanted: targets of all images.
            folds: of all images.
        """
        generator = torch.Generator().manual_seed(SEED)
        mixed = torch.eye(wanted.shape[2])
        if len(mixed) > MIXED:
            mixed = torch.randn(len(mixed), MIXED, generator=generator)
        wanted = wanted @ mixed
        tried = [
            _centred_system(
                torch.cat([products[:, :-1] @ mixed, products[:, -1:]], dim=1),
                wanted,
                fitted,
                self._shift(strength),
            )
            for strength in TRIED
            for products, _, fitted in without
        ]
        found = self._solve(tried, self._gram)
        offsets, errors = _at_means(tried, found), torch.zeros(len(TRIED))
        shape = (self.views.parts, len(TRIED), len(without), mixed.shape[1])
        for rows, predicted in self._predict(found, np.flatnonzero(folds < len(without))):
            outputs = (predicted - offsets).reshape(len(rows), *shape)
            own = outputs[torch.arange(len(rows)), :, :, torch.from_numpy(folds[rows])]
            errors += (own - wanted[rows][:, :, None]).square().sum(dim=(0, 1, 3))
        best: float = TRIED[int(errors.argmin())]
        return best

    def _source_system(
        self, subset: Subset, sums: Float32[Tensor, "class value"]
    ) -> tuple[_System, Float32[Tensor, "value"], Float64[Tensor, "class"]]:
        """W X = class means less their mean; that mean, and the images of each class."""
        images, targets = subset
        fitted = np.zeros(self.views.images, dtype=bool)
        fitted[images.numpy()] = True
        counts = torch.bincount(targets, minlength=len(sums)).double()
        means = sums / counts[:, None].float()
        of_images, of_views = self.energies[:, fitted].sum(axis=1)
        about_class = of_images - float(counts @ means.double().square().sum(dim=1))
        parts, degrees = self.views.parts, max(len(images) - len(sums), 1)
        spread = of_views - parts * of_images
        within, own, trace = _scatter(about_class, about_class * parts + spread, degrees, parts)
        shift = STRENGTH * trace / (len(images) * parts)
        middle = means.mean(dim=0)
        weights = (within * parts * counts).float()
        right = (means - middle).T.contiguous()
        return _System(right, fitted, shift, within, own, means, weights), middle, counts

    def _coordinates(
        self, directions: Directions
    ) -> Callable[[Int64[Tensor, "k"]], Float64[Tensor, "k coordinate"]]:
        weights, offset = directions.weights.float(), directions.offset

        def coordinates(images: Int64[Tensor, "k"]) -> Float64[Tensor, "k coordinate"]:
            parts = self._predict(weights, images.numpy())
            return torch.cat([along.double().mean(dim=1) - offset for _, along in parts])

        return coordinates

    def _solve(self, systems: Sequence[_System], approximation: Nystrom) -> Columns:
        """Preconditioned conjugate gradients, each column on its own."""
        right = torch.cat([system.right for system in systems], dim=1)
        widths = [system.right.shape[1] for system in systems]
        shifts = _by_column([system.shift for system in systems], widths)
        found, residual = torch.zeros_like(right), right.clone()
        step = approximation.solve(residual, shifts)
        size, limit = (residual * step).sum(dim=0), TOLERANCE * right.norm(dim=0)
        for _ in range(MAX_ITERATIONS):
            image = self._apply(systems, widths, shifts, step)
            length = size / (step * image).sum(dim=0).clamp_min(TINY)
            found += length * step
            residual -= length * image
            if bool((residual.norm(dim=0) <= limit).all()):
                break
            better = approximation.solve(residual, shifts)
            size, before = (residual * better).sum(dim=0), size
            step = better + size / before.clamp_min(TINY) * step
        return found

    def _apply(
        self,
        systems: Sequence[_System],
        widths: Sequence[int],
        shifts: Float32[Tensor, "column"],
        columns: Columns,
    ) -> Columns:
        """Multiply the columns of each system by its matrix; one pass over the views."""
        within = _by_column([system.within for system in systems], widths)
        own = _by_column([system.own for system in systems], widths)
        fitted = torch.from_numpy(np.stack([system.fitted for system in systems]))
        found = shifts * columns
        for rows, block in self._blocks():
            along = (block @ columns).view(len(rows), self.views.parts, -1)
            mean = along.mean(dim=1, keepdim=True)
            along = own * (along - mean) + within * mean
            along *= fitted[:, rows].T.repeat_interleave(torch.tensor(widths), dim=1)[:, None]
            found.addmm_(block.T, along.flatten(0, 1))
        for system, start, width in zip(systems, _starts(widths), widths, strict=True):
            if system.means is not None and system.weights is not None:
                part = slice(start, start + width)
                along = system.weights[:, None] * (system.means @ columns[:, part])
                found[:, part] -= system.means.T @ along
        return found

    def _products(
        self, targets: Callable[[Int[np.ndarray, "k"]], Float32[Tensor, "k part column"]]
    ) -> Columns:
        """Zᵀ T, for a function that gives T of some images."""
        found = torch.zeros(0)
        for rows, block in self._blocks():
            product = block.T @ targets(rows).flatten(0, 1)
            found = found + product if len(found) else product
        return found

    def _predict(
        self, columns: Columns, images: Int[np.ndarray, "k"]
    ) -> Iterator[tuple[Int[np.ndarray, "k"], Float32[Tensor, "image part column"]]]:
        for rows, block in self._blocks(images):
            yield rows, (block @ columns).view(len(rows), self.views.parts, -1)

    def _blocks(
        self, images: Int[np.ndarray, "k"] | None = None
    ) -> Iterator[tuple[Int[np.ndarray, "k"], Float32[Tensor, "view value"]]]:
        for rows, statistics in self.views.blocks(images):
            yield rows, self.features.of_block(statistics)


def _scatter(
    about_class: float, of_views: float, degrees: int, parts: int
) -> tuple[float, float, float]:
    """Weights `within` and `own` of W, and the trace of S_image; see `two_covariance`.

    Args:
        about_class: sum of squares of images about the mean of their class.
        of_views: that of their views.
        degrees: of freedom.
        parts: views of an image.
    """
    trace, rest = max(about_class / degrees, TINY), of_views - parts * about_class
    share = PART_SHARE if parts > 1 and rest > TINY else 0.0
    return (1 - share) / degrees / parts, share * trace / rest if share else 0.0, trace


def _centred_system(
    products: Columns,
    wanted: Float32[Tensor, "image part output"],
    fitted: Bool[np.ndarray, "image"],
    shift: float,
) -> _System:
    """The regression of some images with an intercept, as features about their mean.

    Args:
        products: Zᵀ T of these images, then the sum of their views.
        wanted: targets T of all images.
        fitted: these images.
        shift: λ.
    """
    views = int(fitted.sum()) * wanted.shape[1]
    mean, total = products[:, -1] / views, wanted[torch.from_numpy(fitted)].sum(dim=(0, 1))
    right = products[:, :-1] - torch.outer(mean, total)
    return _System(right, fitted, shift, means=mean[None], weights=mean.new_tensor([views]))


def _at_means(systems: Sequence[_System], found: Columns) -> Float32[Tensor, "column"]:
    """Outputs of each centred system at the mean of its images."""
    parts = torch.split(found, [system.right.shape[1] for system in systems], dim=1)
    pairs = zip(systems, parts, strict=True)
    return torch.cat([system.means[0] @ part for system, part in pairs if system.means is not None])


def _apart(
    targets: Float32[Tensor, "k part output"], folds: Int[np.ndarray, "k"], count: int
) -> Float32[Tensor, "k part column"]:
    """Columns of each fold, then of each output; 0 but in those of the image's own fold."""
    found = torch.zeros(*targets.shape[:2], count, targets.shape[2])
    found[torch.arange(len(folds)), :, torch.from_numpy(folds)] = targets
    return found.flatten(2)


def _by_column(values: Sequence[float], widths: Sequence[int]) -> Float32[Tensor, "column"]:
    """The value of each block, for every column of it."""
    return torch.tensor(values, dtype=torch.float32).repeat_interleave(torch.tensor(widths))


def _starts(widths: Sequence[int]) -> list[int]:
    """Where blocks of these widths start."""
    found: list[int] = (np.cumsum(widths) - widths).tolist()
    return found
