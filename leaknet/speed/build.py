"""How fast a cache is built on this machine, against the encoder alone.

The limit is the encoder on pixels that are ready in memory. A build also reads, hashes,
decodes and resizes JPEG files and writes shards, all of which should run beside the encoder.
After every batch of the build a ready one is encoded and timed for itself, so that whatever
else the machine does weighs on both alike.
"""

from __future__ import annotations

import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, UInt8
from PIL import Image
from torch import Tensor

from leakcache.dataset.index import DatasetIndex, ImageRecord
from leakcache.encoder.autoencoder import Encoder
from leakcache.images.decode import Preprocessing, decode, preprocess
from leakcache.store.build import BATCH, build_cache


@dataclass(frozen=True)
class BuildSpeed:
    """What was measured.

    Attributes:
        bare: seconds an image of the encoder on ready pixels.
        build: seconds an image of a build, from files to a finished cache.
        bf16_error: relative RMS error of latents in bf16.
    """

    bare: float
    build: float
    bf16_error: float

    @property
    def of_limit(self) -> float:
        """Throughput of a build as a share of the bare encoder's."""
        return self.bare / self.build


def measure_build(
    spec: str,
    device: str = "cpu",
    precision: str = "fp32",
    *,
    images: int = 128,
    side: int = 512,
) -> BuildSpeed:
    """Time one build and, between its batches, the bare encoder.

    Args:
        spec: the autoencoder.
        device: where to encode.
        precision: arithmetic of the encoder.
        images: in the build; the fewer, the more its beginning and end weigh.
        side: of the JPEG files in pixels.
    """
    encoder = PacedEncoder.load(spec, precision, device)
    with tempfile.TemporaryDirectory(prefix="leak-speed-") as scratch:
        index = write_pictures(Path(scratch) / "images", images, side)
        encoder.ready = ready_pixels(index, BATCH)
        encoder.encode_bytes(encoder.ready)  # a warm-up
        encoder.bare, encoder.views = 0.0, 0
        start = time.perf_counter()
        build_cache(index, encoder, Path(scratch) / "cache")
        whole = time.perf_counter() - start
    error = Encoder.load(spec, "bf16", device).relative_error(encoder.ready)
    return BuildSpeed(encoder.bare / encoder.views, (whole - encoder.bare) / images, error)


class PacedEncoder(Encoder):
    """An encoder that after each batch times one of ready pixels.

    Attributes:
        ready: pixels that wait in memory, a full batch.
        bare: seconds spent on ready pixels.
        views: how many of them went through.
    """

    ready: UInt8[Tensor, "image height width 3"]
    bare = 0.0
    views = 0

    def encode_bytes(
        self, pixels: UInt8[Tensor, "image height width 3"]
    ) -> Float[Tensor, "image channel height/8 width/8"]:
        """Latents of `pixels`; those of the ready ones are thrown away."""
        latents = super().encode_bytes(pixels).cpu()
        start = time.perf_counter()
        super().encode_bytes(self.ready[: len(pixels)]).cpu()
        self.bare += time.perf_counter() - start
        self.views += len(pixels)
        return latents


def ready_pixels(index: DatasetIndex, images: int) -> UInt8[Tensor, "image height width 3"]:
    """Pixels of the first images, as a build cuts them."""
    paths = [index.root / record.path for record in index.records[:images]]
    views = [preprocess(decode(path.read_bytes()), Preprocessing()) for path in paths]
    return torch.from_numpy(np.concatenate(views))


def write_pictures(folder: Path, images: int, side: int) -> DatasetIndex:
    """Write JPEG files of smooth colours with a little grain, and index them as one class."""
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
        records.append(ImageRecord(name, "made up", name, "train"))
    return DatasetIndex(folder, tuple(records), (), "made up")
