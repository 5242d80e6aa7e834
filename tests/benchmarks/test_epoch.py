"""What stage two claims about speed; run with `--benchmark-enable` to time it.

With timing off the same code runs once, so that the claims cannot rot.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from leaknet.config import PAPER
from leaknet.experiments.speed import (
    EpochBench,
    EpochSpeed,
    measure_encoder,
    measure_epoch,
    sd_encoder,
    taesd_encoder,
)
from leaknet.features.latent_features import LatentFeatures
from leaknet.features.noise import training_generator, training_noise

CPU = torch.device("cpu")
LATENT = (4, 32, 32)


@pytest.fixture(scope="module")
def bench() -> EpochBench:
    return EpochBench(CPU, PAPER, LATENT, images=32)


@pytest.mark.benchmark(group="epoch of 32 images")
def test_bare_epoch(benchmark: Any, bench: EpochBench) -> None:
    benchmark(bench.bare)


@pytest.mark.benchmark(group="epoch of 32 images")
def test_cached_epoch(benchmark: Any, bench: EpochBench) -> None:
    benchmark(bench.cached)


@pytest.mark.benchmark(group="noise and features of 64 images")
def test_features(benchmark: Any) -> None:
    layer = LatentFeatures(PAPER.latents, LATENT)
    z0, generator = torch.randn(64, *LATENT).half(), training_generator(0, 1, CPU)
    features = benchmark(lambda: layer(z0, training_noise(64, 3, LATENT, generator)))
    assert features.shape == (64, 3, 8, 32, 32)


def test_speeds_are_per_image_and_comparable() -> None:
    config = PAPER.with_overrides(["latents.backbone=test_resnet", "train.batch_size=4"])
    speed = measure_epoch(CPU, config, shape=(4, 16, 16), images=9, rounds=1)
    assert min(speed.bare, speed.cached) > 0
    assert speed.of_limit == pytest.approx(speed.bare / speed.cached)
    assert EpochSpeed(1.0, 2.0).over_encoder(6.0) == 4.0


@pytest.mark.parametrize(
    ("network", "parameters", "channels"),
    [(sd_encoder, 34_163_664, 8), (taesd_encoder, 1_222_532, 4)],
)
def test_encoders_have_the_known_sizes(
    network: Callable[[], nn.Module], parameters: int, channels: int
) -> None:
    encoder = network()
    assert sum(p.numel() for p in encoder.parameters()) == parameters
    assert encoder(torch.zeros(1, 3, 32, 32)).shape == (1, channels, 4, 4)
    assert measure_encoder(encoder, CPU, size=32, images=1) > 0
