"""Small autoencoders and small data sets that the tests of stage one share."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL, AutoencoderTiny
from PIL import Image

from leakcache.images.decode import Preprocessing

SIDE = 64
SMALL = Preprocessing(size=SIDE)


def tiny_model(
    seed: int = 0, *, width: int = 8, latent: int = 4, blocks: int = 1
) -> AutoencoderTiny:
    torch.manual_seed(seed)
    return AutoencoderTiny(
        encoder_block_out_channels=(width,) * 4,
        decoder_block_out_channels=(width,) * 4,
        num_encoder_blocks=(1, blocks, blocks, blocks),
        num_decoder_blocks=(blocks, blocks, blocks, 1),
        latent_channels=latent,
    ).eval()


def kl_model(seed: int = 0, **options: object) -> AutoencoderKL:
    torch.manual_seed(seed)
    shape = {
        "block_out_channels": (8, 8, 8, 8),
        "down_block_types": ("DownEncoderBlock2D",) * 4,
        "up_block_types": ("UpDecoderBlock2D",) * 4,
        "norm_num_groups": 4,
        "latent_channels": 4,
    }
    return AutoencoderKL(**{**shape, **options}).eval()


def save(model: torch.nn.Module, folder: Path) -> Path:
    model.save_pretrained(folder)
    return folder


def tiny_image(seed: int, size: tuple[int, int] = (SIDE, SIDE)) -> Image.Image:
    """Smooth colours with a little noise, another image for every seed."""
    generator = np.random.default_rng(seed)
    coarse = Image.fromarray(generator.integers(0, 256, (5, 5, 3), np.uint8))
    smooth = np.asarray(coarse.resize(size, Image.Resampling.BICUBIC), np.int16)
    noisy = smooth + generator.integers(-8, 9, smooth.shape, np.int16)
    return Image.fromarray(noisy.clip(0, 255).astype(np.uint8))


def write_images(
    root: Path, labels: tuple[str, ...] = ("ada", "bob"), count: int = 6, first: int = 0
) -> Path:
    """`root/LABEL/NNN.png`, `count` images a label, no two alike."""
    for number, label in enumerate(labels):
        (root / label).mkdir(parents=True, exist_ok=True)
        for row in range(first, first + count):
            tiny_image(1000 * number + row).save(root / label / f"{row:03d}.png")
    return root


def array_bytes(home: Path) -> dict[str, str]:
    """Hash of every shard of the columns in a cache folder, by its path below them."""
    root = home / "store" / "columns"
    return {
        path.relative_to(root).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(root.glob("*/values.zarr/c/**/*"))
        if path.is_file()
    }
