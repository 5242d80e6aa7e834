"""Throughput of a cache build relative to the encoder alone.

The limit is the encoder on pixels in memory. A build also reads, hashes, decodes and resizes JPEG
files and writes shards, in parallel to the encoder. Each batch of the build alternates with one
timed batch of the encoder alone, so that other load on the machine affects both.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, UInt8
from PIL import Image
from torch import Tensor

from leakcache.columns.compute import BATCH
from leakcache.dataset.index import DatasetIndex, ImageRecord
from leakcache.encoder.autoencoder import Encoder
from leakcache.images.decode import Preprocessing, decode, preprocess
from leakcache.store.build import build_cache
from leaknet.config import preset

FOLDS = ("train", "test", "train", "val", "train", "test", "train", "val", "train", "test")
"""Of ten images: 50 % training, 20 % validation, 30 % test."""


@dataclass(frozen=True)
class BuildSpeed:
    """Seconds per image, and the error of bf16.

    Attributes:
        bare: of the encoder on pixels in memory.
        build: of a build, from files to a finished cache.
        bf16_error: relative RMS error of bf16 latents.
    """

    bare: float
    build: float
    bf16_error: float

    @property
    def of_limit(self) -> float:
        """Throughput of a build relative to the encoder alone."""
        return self.bare / self.build


@dataclass(frozen=True)
class StatisticsSpeed:
    """CPU seconds per image of a build with all columns of `best`.

    Attributes:
        bare: of the encoder on the same views in memory.
        build: of a build, from files to a finished cache.
        passes: views of 512 × 512 pixels that were encoded, in area.
    """

    bare: float
    build: float
    passes: float

    @property
    def of_limit(self) -> float:
        """Throughput of a build relative to the encoder alone, where all cores are in use."""
        return self.bare / self.build


def measure_build(
    spec: str,
    device: str = "cpu",
    precision: str = "fp32",
    *,
    images: int = 128,
    side: int = 512,
) -> BuildSpeed:
    """Time one build and, between its batches, the encoder alone.

    Args:
        spec: the autoencoder.
        device: where to encode.
        precision: of the encoder: "fp32", "bf16" or "fp16".
        images: number of images in the build.
        side: of the JPEG files in pixels.
    """
    encoder = PacedEncoder.load(spec, precision, device)
    with tempfile.TemporaryDirectory(prefix="leak-speed-") as scratch:
        index = write_images(Path(scratch) / "images", images, side)
        encoder.ready = ready_pixels(index, BATCH)
        encoder.encode_bytes(encoder.ready)  # a warm-up
        encoder.bare, encoder.views = 0.0, 0
        start = time.perf_counter()
        build_cache(index, encoder, Path(scratch) / "cache" / "closed")
        whole = time.perf_counter() - start
    error = Encoder.load(spec, "bf16", device).relative_error(encoder.ready)
    return BuildSpeed(encoder.bare / encoder.views, (whole - encoder.bare) / images, error)


def measure_statistics(
    spec: str,
    device: str = "cpu",
    precision: str = "fp32",
    *,
    images: int = 10,
    side: int = 512,
) -> StatisticsSpeed:
    """Build a cache for `best`, of which half are training images, then encode its views alone.

    Seconds are those of the process on all cores, which other work on the machine hardly changes;
    on a GPU they say little.

    Args:
        spec: the autoencoder.
        device: where to encode.
        precision: of the encoder.
        images: number of images, in folds of 50, 20 and 30 %.
        side: of the JPEG files in pixels.
    """
    encoder = RecordingEncoder.load(spec, precision, device)
    with tempfile.TemporaryDirectory(prefix="leak-speed-") as scratch:
        index = write_images(Path(scratch) / "images", images, side, FOLDS)
        encoder.views = []
        encoder.encode_bytes(torch.zeros(1, side, side, 3, dtype=torch.uint8))  # a warm-up
        encoder.views.clear()
        start = time.process_time()
        build_cache(
            index, encoder, Path(scratch) / "cache" / "closed", columns=preset("best").columns()
        )
        build = time.process_time() - start
    start = time.process_time()
    for view in encoder.views:
        Encoder.encode_bytes(encoder, view).cpu()
    bare = time.process_time() - start
    area = sum(view.shape[0] * view.shape[1] * view.shape[2] for view in encoder.views) / 512**2
    return StatisticsSpeed(bare / images, build / images, area / images)


class RecordingEncoder(Encoder):
    """An encoder that keeps what it encodes.

    Attributes:
        views: all batches of pixels.
    """

    views: list[UInt8[Tensor, "image height width 3"]]

    def encode_bytes(
        self, pixels: UInt8[Tensor, "image height width 3"]
    ) -> Float[Tensor, "image channel height/8 width/8"]:
        """Latents of `pixels`, which are kept."""
        self.views.append(pixels)
        return super().encode_bytes(pixels)


class PacedEncoder(Encoder):
    """An encoder that after each batch times one batch of ready pixels.

    Attributes:
        ready: a full batch of pixels in memory.
        bare: seconds spent on ready pixels.
        views: number of ready pixels encoded.
    """

    ready: UInt8[Tensor, "image height width 3"]
    bare = 0.0
    views = 0

    def encode_bytes(
        self, pixels: UInt8[Tensor, "image height width 3"]
    ) -> Float[Tensor, "image channel height/8 width/8"]:
        """Latents of `pixels`; those of the ready pixels are discarded."""
        latents = super().encode_bytes(pixels).cpu()
        start = time.perf_counter()
        super().encode_bytes(self.ready[: len(pixels)]).cpu()
        self.bare += time.perf_counter() - start
        self.views += len(pixels)
        return latents


def ready_pixels(index: DatasetIndex, images: int) -> UInt8[Tensor, "image height width 3"]:
    """Preprocessed pixels of the first images."""
    paths = [index.root / record.path for record in index.records[:images]]
    views = [preprocess(decode(path.read_bytes()), Preprocessing()) for path in paths]
    return torch.from_numpy(np.concatenate(views))


def write_images(
    folder: Path, images: int, side: int, folds: Sequence[str] = ("train",)
) -> DatasetIndex:
    """Write synthetic JPEG files (smooth colours and grain) of one class, folds in turn."""
    folder.mkdir(parents=True)
    generator = np.random.default_rng(0)
    grain = generator.normal(0, 6, (side, side, 3))
    records = []
    for number in range(images):
        coarse = Image.fromarray(generator.integers(0, 256, (9, 9, 3), np.uint8))
        smooth = np.asarray(coarse.resize((side, side), Image.Resampling.BICUBIC))
        pixels = (smooth + np.roll(grain, number, axis=0)).clip(0, 255).astype(np.uint8)
        name = f"{number:05d}.jpg"
        Image.fromarray(pixels).save(folder / name, quality=90)
        records.append(ImageRecord(name, "synthetic", name, folds[number % len(folds)]))
    return DatasetIndex(folder, tuple(records), (), "synthetic")
