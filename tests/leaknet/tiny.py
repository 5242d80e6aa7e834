"""Small models and latents that the tests of stage two share."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np
import torch

from leakcache.dct import dct_low
from leakcache.moments import Moments
from leakcache.statistics import LatentMoments
from leaknet.config import RunConfig
from leaknet.model import ProtoLeakNet

SHAPE = (4, 16, 16)
CLASSES = ("ada", "bob", "cyd")


def tiny_config(*overrides: str) -> RunConfig:
    small = ["model.backbone=test_resnet", "model.dimension=8", "train.batch_size=8"]
    return RunConfig().with_overrides([*small, *overrides])


def tiny_model(*overrides: str, seed: int = 0) -> ProtoLeakNet:
    torch.manual_seed(seed)
    model = ProtoLeakNet(tiny_config(*overrides), CLASSES, SHAPE)
    moments = moments_of(random_latents(64))
    model.features.fit(moments.latent, moments.dct)
    return model


def random_latents(count: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(count, *SHAPE, generator=torch.Generator().manual_seed(seed))


def moments_of(z0: torch.Tensor) -> LatentMoments:
    pixels = z0.movedim(1, -1).reshape(-1, z0.shape[1])
    return LatentMoments(
        Moments.of(pixels.double().numpy()), Moments.of(dct_low(z0.double(), 16).numpy())
    )


def image_ids(names: Sequence[object]) -> np.ndarray:
    return np.array([hashlib.sha256(str(name).encode()).hexdigest() for name in names])
