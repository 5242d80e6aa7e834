"""From stored views to a network's input: crop, flip, standardise."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float, Shaped, UInt8
from torch import Tensor

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


def cropped(
    views: Shaped[np.ndarray, "sample height width channel"],
    size: int,
    rng: np.random.Generator | None,
    *,
    grid: int = 1,
) -> Shaped[np.ndarray, "sample size size channel"]:
    """A random crop of each view, the central one without `rng`; corners on multiples of `grid`.

    Raises IndexError if a view is smaller than `size`.
    """
    free = np.array(views.shape[1:3]) - size
    if free.min() < 0:
        raise IndexError(f"views of {views.shape[1:3]} have no crop of {size}")
    if rng is None:
        corners = np.tile(free // 2 // grid, (len(views), 1))
    else:
        corners = rng.integers(0, free // grid + 1, (len(views), 2))
    pairs = zip(views, (corners * grid).tolist(), strict=True)
    return np.stack([view[top : top + size, left : left + size] for view, (top, left) in pairs])


def flipped(
    views: Shaped[np.ndarray, "sample height width channel"], rng: np.random.Generator | None
) -> Shaped[np.ndarray, "sample height width channel"]:
    """Each view mirrored with probability one half; unchanged without `rng`."""
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
    centre, scale = (torch.tensor(values).view(3, 1, 1) for values in (mean, std))
    return (x - centre) / scale
