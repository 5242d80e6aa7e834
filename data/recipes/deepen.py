"""Deepens a trained AutoencoderTiny encoder without changing its function.

Training a deep encoder from scratch is slow. Here each stage of a trained shallow one gets further
residual blocks whose last convolution is zero.
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
        deep: the encoder to load into, with initial weights.
        shallow: state dict of the shallow one.
        deep_blocks: residual blocks per stage of the deep one.
        shallow_blocks: likewise of the shallow one, at most as many.
    """
    state = deep.state_dict()
    deep_stages, deep_last = _stages(deep_blocks)
    shallow_stages, shallow_last = _stages(shallow_blocks)
    for old_stage, new_stage in zip(shallow_stages, deep_stages, strict=True):
        for old, new in zip(old_stage, new_stage, strict=False):
            _copy(shallow, old, state, new)
        for new in new_stage[len(old_stage) :]:
            _zero(state, new)
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


def _zero(state: dict[str, Tensor], layer: int) -> None:
    for name, value in list(state.items()):
        if name.startswith(f"layers.{layer}.conv.4."):
            state[name] = torch.zeros_like(value)
