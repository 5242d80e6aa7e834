"""From stored uint8 views to a network's input: crops, flips, standardised colours."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


def cropped(
    views: UInt8[np.ndarray, "sample height width 3"],
    size: int,
    rng: np.random.Generator | None,
    *,
    grid: int = 1,
) -> UInt8[np.ndarray, "sample size size 3"]:
    """A random crop of each view, or the central one without `rng`; corners on multiples of `grid`.

    Raises IndexError where a view is smaller than `size`.
    """
    free = np.array(views.shape[1:3]) - size
    if free.min() < 0:
        raise IndexError(f"views of {views.shape[1:3]} have no crop of {size}")
    if rng is None:
        corners = np.tile(free // 2 // grid, (len(views), 1))
    else:
        corners = rng.integers(0, free // grid + 1, (len(views), 2))
    places = (corners * grid).tolist()
    return np.stack(
        [
            view[top : top + size, left : left + size]
            for view, (top, left) in zip(views, places, strict=True)
        ]
    )


def flipped(
    views: UInt8[np.ndarray, "sample height width 3"], rng: np.random.Generator | None
) -> UInt8[np.ndarray, "sample height width 3"]:
    """Half of the views mirrored left to right; none without `rng`."""
    if rng is None:
        return views
    mirrored = rng.random(len(views)) < 0.5
    return np.where(mirrored[:, None, None, None], views[:, :, ::-1], views)


def standardised(
    views: UInt8[np.ndarray, "sample height width 3"],
    mean: Sequence[float] = IMAGENET_MEAN,
    std: Sequence[float] = IMAGENET_STD,
) -> Float[Tensor, "sample 3 height width"]:
    """(x / 255 − mean) / std, channels first."""
    x = torch.from_numpy(np.ascontiguousarray(views)).permute(0, 3, 1, 2).float() / 255
    channels = (torch.tensor(values).view(3, 1, 1) for values in (mean, std))
    centre, scale = channels
    return (x - centre) / scale
