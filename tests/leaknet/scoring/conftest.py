"""A run that can compare sources: four generators that differ in the strengths of two traces."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from leakcache.dataset.index import read_index
from leakcache.encoder.autoencoder import Encoder
from leakcache.store.build import build_cache
from leaknet.config import preset
from leaknet.scoring.score_run import prepare_run
from leaknet.training.train import train
from tests.leaknet.tiny import silent
from tests.tiny_data import SIDE, SMALL, save, tiny_image, tiny_model

GENERATORS = ("ada", "bob", "cyd", "dan")
UNKNOWN = ("eve", "fay")
PROMPTS = 12
PIXELS_ALONE = (
    "latents.enabled=false",
    "statistics.activations=false",
    "statistics.degraded=false",
    "head.dimension=8",
    "train.epochs=1",
)


TRACES = ((0, 0), (0, 10), (10, 0), (10, 10), (0, 20), (20, 0))
"""Amplitudes of a grid and of fixed noise, by generator."""


def generated(generator: int, prompt: int) -> Image.Image:
    """An image of a prompt, with the traces of its generator in it."""
    grid, noise = TRACES[generator]
    rows, columns = np.indices((SIDE, SIDE))
    fixed = np.random.default_rng(900).choice([-1, 1], size=(SIDE, SIDE))
    trace = grid * (-1.0) ** (rows + columns) + noise * fixed
    pixels = np.asarray(tiny_image(100 * generator + prompt), np.float64) / 2 + 64
    return Image.fromarray((pixels + trace[..., None]).clip(0, 255).astype(np.uint8))


def write_generated(root: Path, names: tuple[str, ...], first: int, prompts: range) -> Path:
    for number, name in enumerate(names):
        (root / name).mkdir(parents=True)
        for prompt in prompts:
            generated(first + number, prompt).save(root / name / f"{prompt:03d}.png")
    return root


@pytest.fixture(scope="session")
def source_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`run` in a folder with `images` and, of generators and prompts not trained on, `new`."""
    root = tmp_path_factory.mktemp("sources")
    save(tiny_model(), root / "vae")
    write_generated(root / "images", GENERATORS, 0, range(PROMPTS))
    write_generated(root / "new", UNKNOWN, len(GENERATORS), range(50, 54))
    encoder, index = Encoder.load(str(root / "vae")), read_index(root / "images")
    cache = build_cache(
        index,
        encoder,
        root / "cache",
        split="closed",
        preprocessing=SMALL,
        columns=["z0", "pixel_statistics"],
    ).cache
    config = preset("best").with_overrides(PIXELS_ALONE)
    with torch.random.fork_rng():
        train(config, cache, root / "run", device="cpu", track=silent)
    prepare_run(root / "run", cache)
    return root / "run"
