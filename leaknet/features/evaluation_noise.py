"""Gaussian noise ε of evaluation, repeatable per image; this module needs NumPy alone.

ε is a pure function of (seed, image, view, t): a counter-based generator is keyed on (seed, t) and
counts from the image's content hash, so that an image meets the same noise alone, in any batch, in
any order and on any number of workers.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float32


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
