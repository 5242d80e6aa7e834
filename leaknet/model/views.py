"""Views of images, read block by block."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from leakcache.images.archive import in_order
from leakcache.store.cache import Moments

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
