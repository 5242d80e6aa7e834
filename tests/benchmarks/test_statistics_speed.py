"""What statistics cost beside the encoder's pass; run with `--benchmark-enable` to time it."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from leakcache.encoder.autoencoder import Encoder
from leakcache.statistics.activation_features import LENGTH as ACTIVATION_LENGTH
from leakcache.statistics.activation_features import activation_statistics
from leakcache.statistics.pixel_features import LENGTH, pixel_statistics
from tests.tiny_data import save, tiny_model


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Encoder:
    """A tiny autoencoder of the size of TAESD."""
    folder = tmp_path_factory.mktemp("weights")
    return Encoder.load(str(save(tiny_model(width=64, blocks=3), folder / "tiny")))


@pytest.fixture(scope="module")
def view() -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (1, 512, 512, 3), generator=generator, dtype=torch.uint8)


@pytest.mark.benchmark(group="one view of 512 pixels")
def test_encoder_with_activations(benchmark: Any, encoder: Encoder, view: torch.Tensor) -> None:
    latents, maps = benchmark(lambda: encoder.encode_with_activations(view))
    assert latents.shape == (1, 4, 64, 64)
    assert [found.shape[-1] for found in maps] == [256, 128, 64]


@pytest.mark.benchmark(group="one view of 512 pixels")
def test_activation_statistics(benchmark: Any, encoder: Encoder, view: torch.Tensor) -> None:
    maps = encoder.encode_with_activations(view)[1]
    assert benchmark(lambda: activation_statistics(maps, 5)).shape == (1, 5, ACTIVATION_LENGTH)


@pytest.mark.benchmark(group="one view of 512 pixels")
def test_pixel_statistics(benchmark: Any, view: torch.Tensor) -> None:
    assert benchmark(lambda: pixel_statistics(view, 5)).shape == (1, 5, LENGTH)
