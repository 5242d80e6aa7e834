"""The eight generators of the bundled sample, and Muon, the optimiser of all recipes.

All have the same architecture and training images. They differ in settings that cause signal
leaks: noise schedule, prediction target, zero terminal SNR (the last timestep is pure noise),
sampler and number of steps. Six are closed, two are open (not for training).

Muon is momentum with orthogonalised matrix updates (Jordan et al., 2024). Networks without
normalisation layers, such as the tiny autoencoder, train several times faster than with Adam: after
250 steps of the encoder 0.19 of the latents' variance is unexplained, not 0.37. Muon updates the
inner convolutions, AdamW the rest.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from diffusers import (
    DDIMScheduler,
    EulerDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
    UNet2DModel,
)
from torch import Tensor, nn
from torch.nn import functional

TRAIN_TIMESTEPS = 1000
# Betas of DDPM (linear) and of Stable Diffusion (scaled_linear); cosine has none to choose.
BETAS: dict[str, dict[str, object]] = {
    "linear": {"beta_start": 1e-4, "beta_end": 0.02, "beta_schedule": "linear"},
    "scaled_linear": {
        "beta_start": 0.00085,
        "beta_end": 0.012,
        "beta_schedule": "scaled_linear",
    },
    "cosine": {"beta_schedule": "squaredcos_cap_v2"},
}


@dataclass(frozen=True)
class Generator:
    """A small diffusion model and the sampler of its images."""

    name: str
    schedule: str  # linear, scaled_linear, cosine, or flow (straight path from noise to data)
    prediction: str  # epsilon, v_prediction, sample (x0), or velocity (flow matching)
    zero_terminal_snr: bool
    sampler: str  # ddim or euler
    steps: int
    spacing: str  # diffusers' timestep_spacing: leading starts below the last timestep
    seed: int
    open_set: bool = False


# Common pretraining of all models; it generates no images.
BASE = Generator("base", "scaled_linear", "v_prediction", False, "ddim", 50, "trailing", 10)

GENERATORS = (
    Generator("ddim50-eps-scaled", "scaled_linear", "epsilon", False, "ddim", 50, "leading", 11),
    Generator("ddim10-eps-linear", "linear", "epsilon", False, "ddim", 10, "leading", 12),
    Generator("ddim25-v-cosine", "cosine", "v_prediction", False, "ddim", 25, "trailing", 13),
    Generator("ddim8-x0-cosine", "cosine", "sample", False, "ddim", 8, "leading", 14),
    Generator("euler20-v-zsnr", "scaled_linear", "v_prediction", True, "euler", 20, "trailing", 15),
    Generator("euler28-flow", "flow", "velocity", True, "euler", 28, "trailing", 16),
    Generator(
        "ddim40-v-linear-zsnr", "linear", "v_prediction", True, "ddim", 40, "trailing", 17, True
    ),
    Generator(
        "euler12-x0-scaled", "scaled_linear", "sample", False, "euler", 12, "leading", 18, True
    ),
)


class PatchUNet(torch.nn.Module):
    """A UNet on 2×2 patches of the latent: 4×32×32 becomes 16×16×16, at a quarter of the cost."""

    def __init__(self) -> None:
        super().__init__()
        self.unet = UNet2DModel(
            sample_size=16,
            in_channels=16,
            out_channels=16,
            block_out_channels=(64, 96, 96),
            layers_per_block=1,
            down_block_types=("DownBlock2D",) * 3,
            up_block_types=("UpBlock2D",) * 3,
            attention_head_dim=32,
            norm_num_groups=16,
        )

    def forward(self, latents: Tensor, timesteps: Tensor) -> Tensor:
        """Prediction for latents (batch, 4, 32, 32) at timesteps in [0, 1000], same shape."""
        patches = functional.pixel_unshuffle(latents, 2)
        return functional.pixel_shuffle(self.unet(patches, timesteps).sample, 2)


def predict(
    generator: Generator, model: torch.nn.Module, latents: Tensor, timesteps: Tensor
) -> Tensor:
    """Prediction of the generator, from a network whose output is v.

    With z = αx0 + σε: v = αε − σx0, so ε = αv + σz and x0 = αz − σv. The objective is the
    generator's own; the network stays well conditioned at every noise level.
    """
    output: Tensor = model(latents, timesteps)
    if generator.prediction not in ("epsilon", "sample"):
        return output
    kept: Tensor = ddim(generator).alphas_cumprod[timesteps.round().long()][:, None, None, None]
    alpha, sigma = kept.sqrt(), (1 - kept).sqrt()
    if generator.prediction == "epsilon":
        return alpha * output + sigma * latents
    return alpha * latents - sigma * output


def noised(generator: Generator, clean: Tensor, noise: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Noised latents, their timesteps and the regression target, at random timesteps."""
    if generator.schedule == "flow":
        times = torch.rand(len(clean))
        mix = times[:, None, None, None]
        return (1 - mix) * clean + mix * noise, times * TRAIN_TIMESTEPS, noise - clean
    scheduler = ddim(generator)
    timesteps = torch.randint(TRAIN_TIMESTEPS, (len(clean),))
    targets = {
        "epsilon": noise,
        "sample": clean,
        "v_prediction": scheduler.get_velocity(clean, noise, timesteps),
    }
    return scheduler.add_noise(clean, noise, timesteps), timesteps, targets[generator.prediction]


def ddim(generator: Generator) -> DDIMScheduler:
    """The generator's schedule as a deterministic DDIM sampler."""
    return DDIMScheduler(**_schedule(generator), clip_sample=False, set_alpha_to_one=False)


def make_scheduler(
    generator: Generator,
) -> DDIMScheduler | EulerDiscreteScheduler | FlowMatchEulerDiscreteScheduler:
    """The sampler of the generator."""
    if generator.schedule == "flow":
        return FlowMatchEulerDiscreteScheduler(TRAIN_TIMESTEPS)
    if generator.sampler == "euler":
        return EulerDiscreteScheduler(**_schedule(generator))
    return ddim(generator)


@torch.inference_mode()
def sample(generator: Generator, model: torch.nn.Module, count: int) -> Tensor:
    """Latents (count, 4, 32, 32); image i starts from the noise of seed i in every generator."""
    noise = [_noise(index) for index in range(count)]
    scheduler = make_scheduler(generator)
    scheduler.set_timesteps(generator.steps)
    latents = torch.stack(noise) * getattr(scheduler, "init_noise_sigma", 1.0)
    for timestep in scheduler.timesteps:
        scaled = latents
        if generator.schedule != "flow":
            scaled = scheduler.scale_model_input(latents, timestep)
        output = predict(generator, model, scaled, timestep.expand(count))
        latents = scheduler.step(output, timestep, latents).prev_sample
    return latents


def _schedule(generator: Generator) -> dict[str, object]:
    betas = BETAS[generator.schedule]
    return betas | {
        "num_train_timesteps": TRAIN_TIMESTEPS,
        "prediction_type": generator.prediction,
        "rescale_betas_zero_snr": generator.zero_terminal_snr,
        "timestep_spacing": generator.spacing,
    }


def _noise(index: int) -> Tensor:
    return torch.randn(4, 32, 32, generator=torch.Generator().manual_seed(index))


# The authors' quintic, which moves singular values towards one.
QUINTIC = (3.4445, -4.7750, 2.0315)


class Muon(torch.optim.Optimizer):
    """Optimiser for weights of at least two dimensions, flattened to matrices."""

    def __init__(self, parameters: Iterable[Tensor], lr: float, momentum: float = 0.95) -> None:
        super().__init__(parameters, {"lr": lr, "momentum": momentum})

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        """Apply one update; the closure is ignored."""
        for group in self.param_groups:
            for parameter in group["params"]:
                update = self._momentum(parameter, group["momentum"])
                matrix = orthogonal(update.flatten(1))
                rows, columns = matrix.shape
                rate = group["lr"] * max(1.0, rows / columns) ** 0.5
                parameter.add_(matrix.view_as(parameter), alpha=-rate)

    def _momentum(self, parameter: Tensor, momentum: float) -> Tensor:
        """Nesterov momentum of the gradient."""
        state, gradient = self.state[parameter], parameter.grad
        assert gradient is not None
        mean = state.setdefault("mean", torch.zeros_like(parameter))
        mean.lerp_(gradient, 1 - momentum)
        ahead: Tensor = gradient.lerp(mean, momentum)
        return ahead


def orthogonal(matrix: Tensor, steps: int = 5) -> Tensor:
    """The matrix with singular values near one, by Newton-Schulz iteration."""
    tall = matrix.shape[0] > matrix.shape[1]
    wide = matrix.T if tall else matrix
    wide = wide / (wide.norm() + 1e-7)
    first, second, third = QUINTIC
    for _ in range(steps):
        square = wide @ wide.T
        wide = first * wide + (second * square + third * square @ square) @ wide
    result: Tensor = wide.T if tall else wide
    return result


def optimizers(model: nn.Module, muon_rate: float, adam_rate: float) -> list[torch.optim.Optimizer]:
    """Muon for the inner convolutions, AdamW for all other parameters."""
    inner = [
        parameter
        for parameter in model.parameters()
        if parameter.ndim >= 2 and min(parameter.shape[:2]) >= 24
    ]
    chosen = {id(parameter) for parameter in inner}
    rest = [parameter for parameter in model.parameters() if id(parameter) not in chosen]
    return [Muon(inner, muon_rate), torch.optim.AdamW(rest, adam_rate, weight_decay=0)]


def scale_rates(optimizers: list[torch.optim.Optimizer], step: int, steps: int) -> None:
    """Linear warm-up over the first 3 % of the steps, then linear decay to zero."""
    factor = min((step + 1) / (0.03 * steps), 1 - step / steps)
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["lr"] = factor * group.setdefault("peak", group["lr"])
