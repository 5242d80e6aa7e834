"""α_t and σ_t against the published figures and against diffusers itself."""

from __future__ import annotations

import numpy as np
import pytest
from diffusers import DDPMScheduler

from leaknet.features.noise import noise_levels

FIGURES = {
    "cosine": ("155.6", "55.8", "37.2"),
    "scaled_linear": ("34.29", "13.89", "10.17"),
    "linear": ("34.29", "13.76", "9.99"),
}


@pytest.mark.parametrize("schedule", FIGURES)
def test_ratios_are_the_known_ones(schedule: str) -> None:
    ratios = noise_levels(schedule, (0, 5, 10)).ratio
    for ratio, figure in zip(ratios, FIGURES[schedule], strict=True):
        assert f"{ratio:.{len(figure.split('.')[1])}f}" == figure


@pytest.mark.parametrize(
    ("schedule", "name", "betas"),
    [
        ("cosine", "squaredcos_cap_v2", {}),
        ("scaled_linear", "scaled_linear", {"beta_start": 0.00085, "beta_end": 0.012}),
        ("linear", "linear", {"beta_start": 0.00085, "beta_end": 0.012}),
    ],
)
def test_levels_are_those_of_diffusers(schedule: str, name: str, betas: dict[str, float]) -> None:
    scheduler = DDPMScheduler(num_train_timesteps=1000, beta_schedule=name, **betas)
    steps = (0, 1, 10, 500, 999)
    levels = noise_levels(schedule, steps)
    reference = scheduler.alphas_cumprod.double().numpy()[list(steps)]
    np.testing.assert_allclose(levels.alpha**2, reference, rtol=1e-4)
    np.testing.assert_allclose(levels.alpha**2 + levels.sigma**2, 1, rtol=1e-14)


def test_steps_keep_their_order() -> None:
    forward, backward = noise_levels("cosine", (3, 700)), noise_levels("cosine", (700, 3))
    assert (forward.sigma == backward.sigma[::-1]).all()
    assert forward.sigma[0] < forward.sigma[1]
