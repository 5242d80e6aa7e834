"""The forward process z_t = α_t z0 + σ_t ε: α_t and σ_t of diffusers' schedules, ε of training.

Three schedules are named: "cosine" (`squaredcos_cap_v2`, what the paper says), "scaled_linear"
(linear in √β, Stable Diffusion's own) and "linear" (linear in β over the same range, what
the authors' code uses). t indexes the discrete schedule, so that t = 0 carries β_0.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from leaknet.config import STEPS

_DIFFUSERS: dict[str, dict[str, Any]] = {
    "cosine": {"beta_schedule": "squaredcos_cap_v2"},
    "scaled_linear": {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012},
    "linear": {"beta_schedule": "linear", "beta_start": 0.00085, "beta_end": 0.012},
}


@dataclass(frozen=True)
class NoiseLevels:
    """Signal α_t and noise σ_t at chosen steps, float64; α² + σ² = 1.

    Attributes:
        alpha: share of the latent, in (0, 1).
        sigma: share of the noise, in (0, 1).
    """

    alpha: Float[np.ndarray, "step"]
    sigma: Float[np.ndarray, "step"]

    @property
    def ratio(self) -> Float[np.ndarray, "step"]:
        """α_t / σ_t, the latent's weight in z_t / σ_t."""
        ratio: np.ndarray = self.alpha / self.sigma
        return ratio


def noise_levels(schedule: str, timesteps: Sequence[int]) -> NoiseLevels:
    """α_t and σ_t of a named schedule at the given steps, each from 0 to 999."""
    log_signal: np.ndarray = _log_signal(schedule)[list(timesteps)]
    return NoiseLevels(np.exp(log_signal / 2), np.sqrt(-np.expm1(log_signal)))


@lru_cache(maxsize=len(_DIFFUSERS))
def _log_signal(schedule: str) -> Float[np.ndarray, "step"]:
    """Logarithm of α_t², summed in float64: at t = 0, 1 − α² is near the rounding of float32."""
    from diffusers import DDPMScheduler

    betas = DDPMScheduler(num_train_timesteps=STEPS, **_DIFFUSERS[schedule]).betas
    return np.cumsum(np.log1p(-betas.double().numpy()))


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
