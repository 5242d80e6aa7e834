"""The space in which both closed forms of the statistics branch are solved, over views of images.

Up to `MAX_VIEWS` views it is the space of views, by their Gram matrix: exact. Beyond that it is
the space of features, by an iteration whose time is linear in the number of views
(`leaknet.model.streaming_space`). Views are read block by block.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Float64, Int, Int64, Shaped
from torch import Tensor

from leakcache.images.archive import in_order
from leakcache.processes import memory_limit
from leakcache.store.cache import Moments
from leaknet.model.ridge import CrossRidge, StandardFeatures, cross_ridge
from leaknet.model.two_covariance import Sources, Subset, fit_directions, views_of

MAX_VIEWS = 12_000
"""Views that are solved exactly, at most: time grows with the cube of their number."""
GRAM_COPIES = 5
"""Matrices of the size of the Gram matrix in memory while it is solved."""


class FeatureSpace(ABC):
    """Standardised features of the views of images, in coordinates of the space."""

    @abstractmethod
    def fit_ridge(self, targets: Float[np.ndarray, "view output"]) -> CrossRidge:
        """Regress centred targets of views, image by image."""

    @abstractmethod
    def fit_sources(self, subsets: Sequence[Subset]) -> list[Sources]:
        """Fit discriminant directions to each of these subsets of the images."""

    @abstractmethod
    def weights(self, inside: Float64[Tensor, "dimension output"]) -> Float[Tensor, "value output"]:
        """Weights of features, from weights in this space."""


class GramSpace(FeatureSpace):
    """The space of views: the coordinates of a view are its row of the Gram matrix.

    Attributes:
        gram: Z Zᵀ, image by image with equally many views each.
        groups: prompt group of each image.
        parts: views of an image.
    """

    def __init__(
        self, gram: Float64[Tensor, "view view"], groups: Shaped[np.ndarray, "image"]
    ) -> None:
        self.gram, self.groups, self.parts = gram, groups, len(gram) // len(groups)
        self._weigh: Callable[[Tensor], Tensor] | None = None

    @classmethod
    def fit(
        cls, features: StandardFeatures, views: Views, groups: Shaped[np.ndarray, "image"]
    ) -> GramSpace:
        """Fit the standardisation to these views, and take their Gram matrix."""
        statistics = views.whole()
        space = cls(features.fit(statistics), groups)
        space._weigh = lambda dual: features.weights(statistics, dual)
        return space

    def fit_ridge(self, targets: Float[np.ndarray, "view output"]) -> CrossRidge:
        """See `leaknet.model.ridge.cross_ridge`."""
        return cross_ridge(self.gram, targets, self.groups.repeat(self.parts))

    def fit_sources(self, subsets: Sequence[Subset]) -> list[Sources]:
        """See `leaknet.model.two_covariance.fit_directions`."""
        return [self._fit_subset(*subset) for subset in subsets]

    def _fit_subset(self, images: Int64[Tensor, "k"], targets: Int64[Tensor, "k"]) -> Sources:
        fitted = views_of(images, self.parts)
        every = len(fitted) == len(self.gram)
        gram = self.gram if every else self.gram[fitted][:, fitted]
        directions = fit_directions(gram, targets, self.parts)

        def coordinates(others: Int64[Tensor, "k"]) -> Float64[Tensor, "k coordinate"]:
            rows = self.gram[views_of(others, self.parts)][:, fitted]
            found = rows @ directions.weights - directions.offset
            return found.reshape(len(others), self.parts, -1).mean(dim=1)

        return Sources(directions, coordinates)

    def weights(self, inside: Float64[Tensor, "dimension output"]) -> Float[Tensor, "value output"]:
        """Zᵀ A of dual weights A; raises ValueError for a space that was given its Gram matrix."""
        if self._weigh is None:
            raise ValueError("a space without features has no weights of them")
        return self._weigh(inside)


def fit_space(
    features: StandardFeatures, views: Views, groups: Shaped[np.ndarray, "image"]
) -> FeatureSpace:
    """Fit the standardisation to these views; the space to fit the rest in.

    Args:
        features: fitted in place.
        views: of the training images.
        groups: prompt group of each image.
    """
    values = len(features.mean)
    needed = 8 * GRAM_COPIES * len(views) ** 2 + 4 * len(views) * values
    if len(views) <= MAX_VIEWS and needed <= memory_limit():
        return GramSpace.fit(features, views, groups)
    from leaknet.model.streaming_space import StreamingSpace

    return StreamingSpace.fit(features, views, groups)


BLOCK = 512
"""Views that are computed on together, about: 110 MB of features for 54,000 values."""


@dataclass(frozen=True)
class Views:
    """Statistics of the views of images, in memory or on disk.

    Attributes:
        images: number of images.
        parts: views of each.
        read: from positions of images to the statistics of their views, image by image.
    """

    images: int
    parts: int
    read: Callable[[Int[np.ndarray, "image"]], Float[Tensor, "view value"]]

    @classmethod
    def of(cls, statistics: Float[Tensor, "view value"]) -> Views:
        """One view an image, in memory."""
        return cls(len(statistics), 1, lambda rows: statistics[rows])

    def __len__(self) -> int:
        return self.images * self.parts

    def whole(self) -> Float[Tensor, "view value"]:
        """All of them, in memory once."""
        found = torch.empty(0)
        for rows, values in self.blocks():
            if not len(found):
                found = values.new_empty(len(self), values.shape[1])
            found[rows[0] * self.parts : (rows[-1] + 1) * self.parts] = values
        return found

    def blocks(
        self, images: Int[np.ndarray, "image"] | None = None
    ) -> Iterator[tuple[Int[np.ndarray, "k"], Float[Tensor, "view value"]]]:
        """Positions of a few images and their views, of all images by default.

        The next block is read while one is used.
        """
        rows = np.arange(self.images) if images is None else images
        step = max(1, BLOCK // self.parts)
        parts = [rows[start : start + step] for start in range(0, len(rows), step)]
        yield from zip(parts, in_order(self.read, parts, 2), strict=True)


def view_moments(views: Views, length: int) -> Moments:
    """Count, mean and squared deviations of the statistics of all views."""
    total = Moments.empty((length,))
    for _, statistics in views.blocks():
        variance, mean = torch.var_mean(statistics.float(), dim=0, correction=0)
        squares = variance.double().numpy() * len(statistics)
        total = total.merge(Moments(len(statistics), mean.double().numpy(), squares))
    return total
