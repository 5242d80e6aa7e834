"""What stage one claims about speed; run with `--benchmark-enable` to time it.

With timing off the same code runs once, so that the claims cannot rot.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tiny_data import array_bytes, save, tiny_model

from leakcache.dataset.index import DatasetIndex
from leakcache.encoder.autoencoder import Encoder
from leakcache.statistics.planes import dct_low
from leakcache.store.build import build_cache
from leakcache.store.cache import LatentMoments
from leakcache.store.column import BATCH
from leaknet.config import preset
from leaknet.experiments.speed import (
    BuildSpeed,
    RecordingEncoder,
    measure_bf16_error,
    measure_build,
    ready_pixels,
    write_images,
)


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save(tiny_model(), tmp_path_factory.mktemp("weights") / "tiny")


@pytest.fixture(scope="module")
def encoder(weights: Path) -> Encoder:
    return Encoder.load(str(weights))


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory) -> DatasetIndex:
    return write_images(tmp_path_factory.mktemp("bench") / "images", 16, 512)


@pytest.mark.benchmark(group="encoding 16 images")
def test_bare_encoder(benchmark: Any, encoder: Encoder, index: DatasetIndex) -> None:
    pixels = ready_pixels(index, 16)
    latents = benchmark(lambda: [encoder.encode_bytes(b) for b in torch.split(pixels, BATCH)])
    assert [len(batch) for batch in latents] == [8, 8]


@pytest.mark.benchmark(group="encoding 16 images")
def test_whole_build(benchmark: Any, encoder: Encoder, index: DatasetIndex, tmp_path: Path) -> None:
    report = benchmark(lambda: build_cache(index, encoder, tmp_path / "c", fresh=True))
    assert report.computed == len(report.cache) == 16


@pytest.mark.benchmark(group="coefficients and moments of a shard of 256 latents")
def test_coefficients(benchmark: Any) -> None:
    latents = torch.randn(256, 1, 4, 32, 32)
    assert benchmark(lambda: dct_low(latents, 16)).shape == (256, 1, 4, 16, 16)


@pytest.mark.benchmark(group="coefficients and moments of a shard of 256 latents")
def test_moments(benchmark: Any) -> None:
    latents = np.random.default_rng(0).normal(size=(256, 1, 4, 32, 32)).astype(np.float16)
    moments = benchmark(lambda: LatentMoments.of(latents, latents[..., :16, :16]))
    assert moments.latent.count == 256 * 32 * 32


def test_a_build_costs_more_than_its_views(weights: Path) -> None:
    speed = measure_build(str(weights), images=9, side=256)
    assert 0 < speed.bare < speed.build
    assert speed.passes == 0.25
    assert BuildSpeed(bare=1.0, build=4.0, elapsed=2.0, passes=1.0).of_limit == 0.25
    assert 0 < measure_bf16_error(str(weights), side=256) < 0.1


def test_a_build_for_best_encodes_the_views_of_copies_too(weights: Path) -> None:
    columns = preset("best").columns()
    speed = measure_build(str(weights), columns=columns, images=2, side=256)
    assert 0 < speed.bare < speed.build
    # Of one training and one test image of 256 pixels: its view, that enlarged, and two copies.
    assert 1.25 * 2 < 2 * speed.passes <= 1.25 * 4


def test_a_recorded_build_holds_what_any_build_holds(
    weights: Path, encoder: Encoder, index: DatasetIndex, tmp_path: Path
) -> None:
    recording = RecordingEncoder.load(str(weights))
    recording.views = []
    build_cache(index, recording, tmp_path / "a" / "c")
    build_cache(index, encoder, tmp_path / "b" / "c")
    assert sum(len(views) for views in recording.views) == 16
    assert array_bytes(tmp_path / "a") == array_bytes(tmp_path / "b")
