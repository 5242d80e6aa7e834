"""A run over real image files, made by the code that users call, with a tiny autoencoder."""

from __future__ import annotations

from pathlib import Path

import torch

from leakcache.dataset.index import read_index
from leakcache.encoder.autoencoder import Encoder
from leakcache.store.build import build_cache
from leaknet.config import preset
from leaknet.scoring.score_run import prepare_run
from leaknet.training.train import train
from tests.leaknet.tiny import silent
from tests.tiny_data import SMALL, save, tiny_model, write_images

LABELS = ("ada", "bob")
SETTINGS = (
    "latents.backbone=test_resnet",
    "head.dimension=8",
    "head.prototypes=2",
    "latents.dct_size=4",
    "train.epochs=1",
    "train.batch_size=8",
)


def small_run(
    root: Path, count: int = 16, name: str = "paper", *overrides: str, runtime: str = "torch"
) -> Path:
    """`root/run`, trained on `root/images` (labels `LABELS`), whose weights lie in `root/vae`.

    Args:
        root: an empty folder.
        count: images of each label.
        name: of the preset whose branches the run has.
        overrides: settings besides `SETTINGS`.
        runtime: of the encoder.
    """
    torch.manual_seed(0)
    save(tiny_model(), root / "vae")
    write_images(root / "images", LABELS, count)
    encoder = Encoder.load(str(root / "vae"), runtime=runtime)
    index = read_index(root / "images")
    config = preset(name).with_overrides([*SETTINGS, *overrides])
    cache = build_cache(
        index,
        encoder,
        root / "cache",
        split="closed",
        preprocessing=SMALL,
        columns=config.columns(),
    ).cache
    train(config, cache, root / "run", device="cpu", track=silent)
    prepare_run(root / "run", cache)
    return root / "run"
