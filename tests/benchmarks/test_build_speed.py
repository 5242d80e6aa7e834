"""What stage one claims about speed; run with `--benchmark-enable` to time it.

With timing off the same code runs once, so that the claims cannot rot.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tiny_data import save, tiny_model

from leakcache.autoencoder import Encoder
from leakcache.dct import dct_low
from leakcache.speed import BuildBench, BuildSpeed, measure_build
from leakcache.statistics import LatentMoments
from leakcache.store import LatentCache


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save(tiny_model(), tmp_path_factory.mktemp("weights") / "tiny")


@pytest.fixture(scope="module")
def bench(weights: Path, tmp_path_factory: pytest.TempPathFactory) -> BuildBench:
    return BuildBench(Encoder.load(str(weights)), tmp_path_factory.mktemp("bench"), 16, 512)


@pytest.mark.benchmark(group="encoding 16 images")
def test_bare_encoder(benchmark: Any, bench: BuildBench) -> None:
    benchmark(bench.bare)


@pytest.mark.benchmark(group="encoding 16 images")
def test_whole_build(benchmark: Any, bench: BuildBench) -> None:
    benchmark(bench.whole)
    assert len(LatentCache.open(bench.folder)) == 16


@pytest.mark.benchmark(group="coefficients and moments of a shard of 256 latents")
def test_coefficients(benchmark: Any) -> None:
    latents = torch.randn(256, 1, 4, 32, 32)
    assert benchmark(lambda: dct_low(latents, 16)).shape == (256, 1, 4, 16, 16)


@pytest.mark.benchmark(group="coefficients and moments of a shard of 256 latents")
def test_moments(benchmark: Any) -> None:
    latents = np.random.default_rng(0).normal(size=(256, 1, 4, 32, 32)).astype(np.float16)
    moments = benchmark(lambda: LatentMoments.of(latents, latents[..., :16, :16]))
    assert moments.latent.count == 256 * 32 * 32


def test_speeds_are_per_image_and_of_the_limit(weights: Path) -> None:
    speed = measure_build(str(weights), images=9, rounds=2, side=256)
    assert len(speed.bare) == len(speed.whole) == 2
    assert min(speed.bare + speed.whole) > 0
    assert 0 < speed.bf16_error < 0.1
    assert BuildSpeed((1.0, 2.0, 9.0), (2.0, 8.0, 9.0), 0.0).of_limit == 0.5
    assert BuildSpeed((1.0, 2.0, 9.0), (2.0, 8.0, 9.0), 0.0).build == 8.0
