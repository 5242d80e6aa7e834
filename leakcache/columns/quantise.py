"""Statistics in 8 bits: each family of each row is stored with its own lowest value and step.

A row depends on no other, so that images can be added, resumed and scored one by one. The error
of a value is at most half a step, 1/510 of the range of its family in its row; on gallery8 that is
a tenth of its deviation between images, and accuracy is the same (docs/PERFORMANCE.md).
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from jaxtyping import Float, UInt8

LEVELS = 255
SCALE_BYTES = 2 * np.dtype("<f4").itemsize
"""Of the lowest value and the step of a family, which follow the codes of all families."""


def stored_length(lengths: Mapping[str, int]) -> int:
    """Bytes of a row of families of these lengths."""
    return sum(lengths.values()) + SCALE_BYTES * len(lengths)


def quantise(
    rows: Float[np.ndarray, "*row value"], lengths: Mapping[str, int]
) -> UInt8[np.ndarray, "*row byte"]:
    """Codes of all values, then lowest value and step of each family, as little-endian float32.

    Args:
        rows: families one after another; where one has a value that is not finite, it is read back
            as not finite.
        lengths: values of each family, in their order.
    """
    codes, scales = [], []
    for values in _families(rows.astype(np.float32), lengths):
        lowest = values.min(axis=-1, keepdims=True)
        with np.errstate(invalid="ignore", over="ignore"):
            step = (values.max(axis=-1, keepdims=True) - lowest) / np.float32(LEVELS)
            found = (values - lowest) / np.where(step > 0, step, 1)
        usable = np.isfinite(found)
        codes.append(np.where(usable, found, 0).round().clip(0, LEVELS).astype(np.uint8))
        scales += [lowest, np.where(usable.all(axis=-1, keepdims=True), step, np.nan)]
    ends = np.concatenate(scales, axis=-1).astype("<f4").view(np.uint8)
    stored: np.ndarray = np.concatenate([*codes, ends], axis=-1)
    return stored


def dequantise(
    stored: UInt8[np.ndarray, "*row byte"], lengths: Mapping[str, int]
) -> Float[np.ndarray, "*row value"]:
    """The values that `quantise` stored, within half a step, as float16."""
    count = sum(lengths.values())
    scales = np.ascontiguousarray(stored[..., count:]).view("<f4")
    values = np.empty((*stored.shape[:-1], count), np.float16)
    parts = zip(_families(stored[..., :count], lengths), _families(values, lengths), strict=True)
    for family, (codes, target) in enumerate(parts):
        lowest, step = (scales[..., 2 * family + k, None] for k in range(2))
        with np.errstate(over="ignore"):
            target[...] = lowest + step * codes
    return values


def _families(rows: np.ndarray, lengths: Mapping[str, int]) -> list[np.ndarray]:
    return np.split(rows, np.cumsum(list(lengths.values()))[:-1], axis=-1)
