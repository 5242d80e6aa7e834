"""Deeper copies of a trained AutoencoderTiny encoder that compute the same function.

A deep encoder learns slowly from scratch. A shallow one is trained first; then each stage gets
further residual blocks whose last convolution is zero, so that they change nothing yet.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn


def deepen(
    deep: nn.Module,
    shallow: dict[str, Tensor],
    deep_blocks: Sequence[int],
    shallow_blocks: Sequence[int],
) -> None:
    """Load a shallow encoder's weights into a deeper one of the same width.

    Args:
        deep: the encoder to be loaded, with its fresh weights.
        shallow: state dict of the shallow one.
        deep_blocks: residual blocks per stage of the deep one.
        shallow_blocks: likewise of the shallow one, none larger.
    """
    state = deep.state_dict()
    deep_stages, deep_last = _stages(deep_blocks)
    shallow_stages, shallow_last = _stages(shallow_blocks)
    for there, here in zip(shallow_stages, deep_stages, strict=True):
        for old, new in zip(there, here, strict=False):
            _copy(shallow, old, state, new)
        for new in here[len(there) :]:
            _silence(state, new)
    _copy(shallow, shallow_last, state, deep_last)
    deep.load_state_dict(state)


def _stages(blocks: Sequence[int]) -> tuple[list[range], int]:
    """Layer numbers of each stage, its first convolution included, and of the last layer."""
    stages, first = [], 0
    for count in blocks:
        stages.append(range(first, first + 1 + count))
        first += 1 + count
    return stages, first


def _copy(source: dict[str, Tensor], old: int, target: dict[str, Tensor], new: int) -> None:
    prefix = f"layers.{old}."
    for name, value in source.items():
        if name.startswith(prefix):
            target[f"layers.{new}.{name.removeprefix(prefix)}"] = value


def _silence(state: dict[str, Tensor], layer: int) -> None:
    for name, value in list(state.items()):
        if name.startswith(f"layers.{layer}.conv.4."):
            state[name] = torch.zeros_like(value)
