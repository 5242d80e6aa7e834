"""Data sets with injected leaks."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from audit_images import plain, random_image
from PIL import Image

Save = Callable[[str, int, Image.Image], tuple[str, bytes]]


@pytest.fixture(scope="session")
def write_data(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Writes class folders; all images differ, and none depends on its class."""

    def write(labels: str, images: int, save: Save = plain, seed: int = 0) -> Path:
        root = tmp_path_factory.mktemp("data")
        for k, label in enumerate(labels.split()):
            (root / label).mkdir()
            for number in range(images):
                image = random_image(seed + 1000 * k + number)
                name, data = save(label, number, image)
                (root / label / name).write_bytes(data)
        return root

    return write
