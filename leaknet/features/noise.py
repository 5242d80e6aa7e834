"""Gaussian noise ε of training, fast and seeded."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor


def epoch_seed(seed: int, epoch: int, purpose: int = 0) -> int:
    """A 63-bit seed for one purpose in one epoch, well mixed over all three numbers."""
    words = np.random.SeedSequence([seed, epoch, purpose]).generate_state(1, np.uint64)
    return int(words[0] >> np.uint64(1))


def training_generator(seed: int, epoch: int, device: torch.device) -> torch.Generator:
    """The generator of an epoch's training noise, on the device; same for the same numbers."""
    return torch.Generator(device).manual_seed(epoch_seed(seed, epoch))


def training_noise(
    batch: int, steps: int, shape: tuple[int, ...], generator: torch.Generator
) -> Float[Tensor, "batch step *shape"]:
    """Standard normal noise of one batch, in one draw on the generator's device."""
    return torch.randn(
        (batch, steps, *shape), generator=generator, device=generator.device, dtype=torch.float32
    )


@contextmanager
def seeded_globally(seed: int, device: torch.device) -> Iterator[None]:
    """Seed torch's global generators, which initial weights and dropout use; restore them after."""
    cuda = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices=cuda):
        torch.manual_seed(seed)
        yield
