"""Fixtures of stage one."""

from __future__ import annotations

from pathlib import Path

import pytest
from tiny_data import save, tiny_model, write_images

from leakcache.encoder.autoencoder import Encoder


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny autoencoder with random weights, as diffusers saves it."""
    return save(tiny_model(), tmp_path_factory.mktemp("weights") / "tiny")


@pytest.fixture(scope="session")
def encoder(tiny_folder: Path) -> Encoder:
    return Encoder.load(str(tiny_folder))


@pytest.fixture
def image_folder(tmp_path: Path) -> Path:
    """Two classes of six images."""
    return write_images(tmp_path / "images")
