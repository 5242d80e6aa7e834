"""Random images by seed, and files of them."""

from __future__ import annotations

import io

import numpy as np
from PIL import Image


def random_image(seed: int, width: int = 48, height: int = 48) -> Image.Image:
    """A smooth image with some grain, one per seed."""
    random = np.random.default_rng(seed)
    coarse = Image.fromarray(random.integers(30, 226, (5, 5, 3), dtype=np.uint8))
    smooth = np.asarray(coarse.resize((width, height), Image.Resampling.BICUBIC)).astype(int)
    grain = random.integers(-6, 7, smooth.shape)
    return Image.fromarray(np.clip(smooth + grain, 0, 255).astype(np.uint8))


def saved(image: Image.Image, form: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, form, **options)
    return buffer.getvalue()


def plain(label: str, number: int, image: Image.Image) -> tuple[str, bytes]:
    """Every image as the same kind of PNG, uncompressed so that its length says nothing."""
    return f"{number:03}.png", saved(image, "PNG", compress_level=0)
