"""Throughput of training on cached latents, and the cost of an encoder in the training loop.

Epochs over the same images: *bare* runs forward, backward and update on precomputed feature
maps; *cached* is the real epoch, which also gathers latents and computes noise and features. The
cost of an encoder in the loop, as in the authors' code, is added from its own timing.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import torch
from diffusers import AutoencoderKL, AutoencoderTiny
from torch import Tensor, nn

from leakcache.store.cache import Moments
from leaknet.config import PAPER, Z0, RunConfig
from leaknet.data.columns import ImageColumns
from leaknet.model.protoleaknet import ProtoLeakNet
from leaknet.training.epoch import Stepper, TrainingImages, batch_sizes, train_epoch

_CLASSES = tuple("abcdefghij")
_AUTOCAST = {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass(frozen=True)
class EpochSpeed:
    """Seconds per training image.

    Attributes:
        bare: forward, backward and update on precomputed feature maps.
        cached: an epoch over latents in memory.
    """

    bare: float
    cached: float

    @property
    def of_limit(self) -> float:
        """Throughput of a cached epoch relative to the bare one."""
        return self.bare / self.cached

    def over_encoder(self, encoder: float) -> float:
        """Slowdown of an epoch with an encoder of `encoder` seconds per image in the loop."""
        return (self.cached + encoder) / self.cached


def measure_epoch(
    device: torch.device,
    config: RunConfig = PAPER,
    *,
    shape: tuple[int, int, int] = (4, 32, 32),
    images: int = 128,
    rounds: int = 3,
) -> EpochSpeed:
    """Time bare and cached epochs in turn, after one warm-up; the fastest of each counts.

    Args:
        device: where to train.
        config: of the model; its number of epochs has no effect.
        shape: of a latent.
        images: number of random images per epoch.
        rounds: epochs of each kind.
    """
    bench = EpochBench(device, config, shape, images)
    bare, cached = [], []
    for _ in range(rounds + 1):
        bare.append(seconds(bench.bare, device))
        cached.append(seconds(bench.cached, device))
    return EpochSpeed(min(bare[1:]) / images, min(cached[1:]) / images)


class EpochBench:
    """A model, random latents, and feature maps precomputed from them."""

    def __init__(
        self, device: torch.device, config: RunConfig, shape: tuple[int, int, int], images: int
    ) -> None:
        z0 = torch.randn(images, *shape, dtype=torch.float16)
        names = np.arange(images).astype(str)
        labels = np.array(_CLASSES)[np.arange(images) % len(_CLASSES)]
        self._split = ImageColumns(labels, names, names, names, names, {Z0: z0[:, None].to(device)})
        # Initial weights do not affect the time, and fetching them takes long.
        config = replace(config, latents=replace(config.latents, pretrained=False))
        model = ProtoLeakNet(config, _CLASSES, shape)
        channel, side = shape[0], config.latents.dct_size
        latents = model.latents
        assert latents is not None
        latents.features.fit(_standard((channel,)), _standard((channel, side, side)))
        self._stepper = Stepper(latents, config.train, device)
        self._latents = latents
        self._images = self._training_images()
        self._sizes = batch_sizes(images, config.train.batch_size)
        self._features, self._targets = self._precompute()

    def _training_images(self) -> TrainingImages:
        rows = torch.arange(len(self._split))
        sample = self._latents.sampler(self._split)
        return TrainingImages(sample, self._split, self._split.targets(_CLASSES), 1, rows)

    def _precompute(self) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
        z0 = self._split.z0.flatten(0, 1)
        maps = self._latents.training_maps(z0, torch.Generator(z0.device).manual_seed(0))
        targets = self._split.targets(_CLASSES)
        return torch.split(maps, self._sizes), torch.split(targets, self._sizes)

    def bare(self) -> None:
        """One epoch on precomputed feature maps."""
        self._latents.train()
        for features, targets in zip(self._features, self._targets, strict=True):
            self._stepper.step(features, targets)

    def cached(self) -> None:
        """One epoch as in training."""
        train_epoch(self._stepper, self._images, 1, lambda images: None)


def measure_encoder(
    network: nn.Module,
    device: torch.device,
    *,
    precision: str = "fp32",
    size: int = 256,
    images: int = 2,
) -> float:
    """Seconds per image of encoding a batch of random square images, after a warm-up.

    Args:
        network: from pixels to latents; moved to the device, channels-last.
        device: where to encode.
        precision: "fp32", "bf16" or "fp16", under autocast.
        size: side of an image in pixels.
        images: number of images in the batch.
    """
    network.eval().to(device).to(memory_format=torch.channels_last)
    pixels = torch.rand(images, 3, size, size, device=device) * 2 - 1
    pixels = pixels.contiguous(memory_format=torch.channels_last)
    dtype = _AUTOCAST[precision]
    with torch.inference_mode(), torch.autocast(device.type, dtype, enabled=dtype is not None):
        return min(seconds(lambda: network(pixels), device) for _ in range(2)) / images


def sd_autoencoder() -> AutoencoderKL:
    """The autoencoder of Stable Diffusion 2.1 with random weights."""
    return AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        block_out_channels=(128, 256, 512, 512),
        layers_per_block=2,
        latent_channels=4,
    )


def sd_encoder() -> nn.Module:
    """Its encoder."""
    vae = sd_autoencoder()
    return nn.Sequential(vae.encoder, vae.quant_conv)


def taesd_encoder() -> nn.Module:
    """The encoder of TAESD with random weights."""
    encoder: nn.Module = AutoencoderTiny().encoder
    return encoder


def seconds(work: Callable[[], object], device: torch.device) -> float:
    """Wall time of `work`, with the device synchronised."""
    _wait(device)
    start = time.perf_counter()
    work()
    _wait(device)
    return time.perf_counter() - start


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _standard(shape: tuple[int, ...]) -> Moments:
    return Moments(1, np.zeros(shape), np.ones(shape))
