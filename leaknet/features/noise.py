"""Gaussian noise ε: repeatable per image at evaluation, fast and seeded in training.

At evaluation ε is a pure function of (seed, image, view, t): a counter-based generator is
keyed on (seed, t) and counts from the image's content hash, so that an image meets the
same noise alone, in any batch, in any order and on any number of workers.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import torch
from jaxtyping import Float, Float32
from torch import Tensor


def evaluation_noise(
    seed: int,
    hashes: Sequence[str],
    timesteps: Sequence[int],
    shape: tuple[int, ...],
    view: int = 0,
) -> Float32[np.ndarray, "image step *shape"]:
    """Standard normal noise for each image and step.

    Args:
        seed: 0 or more.
        hashes: SHA-256 of each image's bytes, in hexadecimal.
        timesteps: steps t of the schedule.
        shape: of one latent, (channel, height, width).
        view: which crop of the image.
    """
    noise = np.empty((len(hashes), len(timesteps), *shape), np.float32)
    for index, image in enumerate(hashes):
        for step, t in enumerate(timesteps):
            stream = np.random.Generator(_stream(seed, t, image, view))
            stream.standard_normal(dtype=np.float32, out=noise[index, step])
    return noise


def _stream(seed: int, t: int, image: str, view: int) -> np.random.Philox:
    # The lowest word of the counter is left to the draws, the next to the view; 128 bits of
    # the hash fill the other two, enough that no two images share a stream.
    low, high = int(image[:16], 16), int(image[16:32], 16)
    return np.random.Philox(counter=[0, view, low, high], key=[seed, t])


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
