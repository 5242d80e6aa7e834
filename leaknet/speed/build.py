"""Throughput of a cache build relative to the encoder alone.

The limit is the encoder on pixels in memory. A build also reads, hashes, decodes and resizes JPEG
files, computes statistics and writes shards. On a CPU both are measured in seconds of the process
on all cores, which other work on the machine hardly changes.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, UInt8
from PIL import Image
from torch import Tensor

from leakcache.columns.column import BATCH
from leakcache.dataset.index import DatasetIndex, ImageRecord
from leakcache.device import torch_threads
from leakcache.encoder.autoencoder import Encoder
from leakcache.images.decode import Preprocessing, decode, preprocess
from leakcache.store.build import Z0, build_cache

FOLDS = ("train", "test", "train", "val", "train", "test", "train", "val", "train", "test")
"""Of ten images: 50 % training, 20 % validation, 30 % test."""


@dataclass(frozen=True)
class BuildSpeed:
    """Seconds per image; those of the process on all cores on a CPU, elapsed ones on a GPU.

    Attributes:
        bare: of the encoder on the same views in memory.
        build: of a build, from files to a finished cache.
        elapsed: time that passed during the build.
        passes: views of 512 × 512 pixels that were encoded, in area.
    """

    bare: float
    build: float
    elapsed: float
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
    columns: Iterable[str] = Z0,
    images: int = 128,
    side: int = 512,
) -> BuildSpeed:
    """Build a cache, then encode its views alone.

    Args:
        spec: the autoencoder.
        device: where to encode.
        precision: of the encoder: "fp32", "bf16" or "fp16".
        columns: of the cache.
        images: number of images in the build.
        side: of the JPEG files in pixels.
    """
    encoder = RecordingEncoder.load(spec, precision, device)
    clock = time.process_time if encoder.device.type == "cpu" else time.perf_counter
    with tempfile.TemporaryDirectory(prefix="leak-speed-") as scratch:
        index = write_images(Path(scratch) / "images", images, side)
        encoder.views = []
        encoder.encode_bytes(ready_pixels(index, BATCH))  # a warm-up
        encoder.views.clear()
        start, begin = clock(), time.perf_counter()
        build_cache(index, encoder, Path(scratch) / "cache" / "closed", columns=columns)
        build, elapsed = clock() - start, time.perf_counter() - begin
    with torch_threads(1):
        start = clock()
        for view in encoder.views:
            Encoder.encode_bytes(encoder, view).cpu()
        bare = clock() - start
    area = sum(view.numel() for view in encoder.views) / (3 * 512**2)
    return BuildSpeed(bare / images, build / images, elapsed / images, area / images)


def measure_bf16_error(spec: str, device: str = "cpu", side: int = 512) -> float:
    """Relative RMS error of bf16 latents of synthetic images."""
    with tempfile.TemporaryDirectory(prefix="leak-speed-") as scratch:
        pixels = ready_pixels(write_images(Path(scratch) / "images", BATCH, side), BATCH)
    return Encoder.load(spec, "bf16", device).relative_error(pixels)


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


def ready_pixels(index: DatasetIndex, images: int) -> UInt8[Tensor, "image height width 3"]:
    """Preprocessed pixels of the first images."""
    paths = [index.root / record.path for record in index.records[:images]]
    views = [preprocess(decode(path.read_bytes()), Preprocessing()) for path in paths]
    return torch.from_numpy(np.concatenate(views))


def write_images(
    folder: Path, images: int, side: int, folds: Sequence[str] = FOLDS
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
