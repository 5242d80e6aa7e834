"""Covariances of the encoder's activations where it halves the resolution.

An encoder that was trained to keep what matters of an image has filters for traces of generators
that its few channels of latents have no room for (docs/LOG.md). Covariances of activations
describe texture (Gatys, Ecker and Bethge, "Texture synthesis using convolutional neural
networks", 2015).
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from types import MappingProxyType

import numpy as np
import torch
from jaxtyping import Float, Float32, Float64
from torch import Tensor

from leakcache.device import torch_threads
from leakcache.encoder.autoencoder import Activations
from leakcache.statistics.parts import log_triangle, part_covariances, triangle_length
from leakcache.statistics.rows import Parts, Span, activation_parts

SCALES = (2, 4, 8)
"""How many times smaller than the view the activations are."""
STEPS: Mapping[str, tuple[int, int]] = MappingProxyType(
    {"activation": (0, 0), "across": (0, 1), "down": (1, 0)}
)
"""Rows and columns to the position that is subtracted from; (0, 0) for activations themselves."""
CHANNELS = 64
"""Encoders of other widths are brought to this one by a fixed orthonormal matrix."""
LENGTHS: Mapping[str, int] = MappingProxyType(
    {f"{kind}_{scale}": triangle_length(CHANNELS) for scale in SCALES for kind in STEPS}
)
"""Values of each family, in order."""
LENGTH = sum(LENGTHS.values())
FLOOR = 1e-3
"""Added to every variance, relative to their mean, so that rounding does not dominate."""
LEAST_VARIANCE = 1e-8
"""The same for blank views, whose variances are 0."""


def activation_statistics(
    activations: Activations, parts: int = 1
) -> Float32[Tensor, "batch {parts} value"]:
    """All families of the activations of views of one size, on their device.

    On a CPU it takes one thread: call it on several threads for several batches.
    Values of a view whose activations are not finite, as half precision may give, are NaN.

    Args:
        activations: of a batch of views at each of `SCALES`.
        parts: 1 for the whole, 5 for the whole and its four corner quarters.
    """
    with torch_threads(1):
        families = [
            found
            for scale, maps in zip(SCALES, activations, strict=True)
            for found in _families(maps, scale, parts)
        ]
        return torch.cat(families, dim=2)


def _families(
    maps: Float[Tensor, "batch channel height width"], scale: int, parts: int
) -> list[Float32[Tensor, "batch {parts} value"]]:
    grid = activation_parts((maps.shape[2], maps.shape[3]), scale, parts)
    channels = centred(maps)
    return [_log_covariances(channels, grid, step) for step in STEPS.values()]


def centred(
    maps: Float[Tensor, "batch channel height width"],
) -> Float32[Tensor, "batch height width _"]:
    """At most `CHANNELS` channels, last, each less its mean, which keeps float32 sums exact."""
    last = maps.permute(0, 2, 3, 1)
    if maps.shape[1] > CHANNELS:
        last = last.float() @ _orthonormal(maps.shape[1]).to(maps.device, torch.float32).mT
    return last - last.mean((1, 2), keepdim=True, dtype=torch.float32)


def _log_covariances(
    maps: Float32[Tensor, "batch height width channel"], grid: Parts, step: tuple[int, int]
) -> Float32[Tensor, "batch part entry"]:
    """Of the differences of positions `step` apart; of the maps themselves where it is (0, 0)."""

    def vectors(rows: Span, spans: list[Span]) -> list[Float32[Tensor, "batch channel position"]]:
        return [differences(maps, rows, columns, step).flatten(1, 2).mT for columns in spans]

    grid = grid.positions(1, (1 + step[0], 1 + step[1]))
    matrices = widened(part_covariances(vectors, maps.shape[3], maps, grid))
    return log_triangle(matrices, floors(matrices))


def floors(
    matrices: Float64[Tensor, "batch part 64 64"],
) -> Float64[Tensor, "batch part"]:
    """What is added to the variances of each matrix before its logarithm."""
    traces = matrices.diagonal(dim1=-2, dim2=-1).sum(-1)
    return FLOOR * traces / CHANNELS + LEAST_VARIANCE


def differences(
    maps: Float32[Tensor, "batch height width channel"],
    rows: Span,
    columns: Span,
    step: tuple[int, int],
) -> Float32[Tensor, "batch row column channel"]:
    """What lies `step` beyond each position, less the position; itself where that is (0, 0)."""
    found = maps[:, slice(*rows), slice(*columns)]
    if step == (0, 0):
        return found
    down, right = step
    return maps[:, rows[0] + down : rows[1] + down, columns[0] + right : columns[1] + right] - found


def widened(
    matrices: Float64[Tensor, "batch part channel channel"],
) -> Float64[Tensor, "batch part 64 64"]:
    """Covariances of fewer channels, rotated into `CHANNELS`, which keeps their distances."""
    if matrices.shape[-1] == CHANNELS:
        return matrices
    turn = _orthonormal(matrices.shape[-1]).to(matrices.device)
    return turn @ matrices @ turn.mT


@lru_cache
def _orthonormal(channels: int) -> Float64[Tensor, "64 {channels}"]:
    """Orthonormal rows or columns, whichever are fewer; always the same."""
    generator = np.random.default_rng(channels)
    longer, shorter = max(channels, CHANNELS), min(channels, CHANNELS)
    basis = np.linalg.qr(generator.normal(size=(longer, shorter)))[0]
    return torch.from_numpy(basis.T.copy() if channels > CHANNELS else basis)
