"""How fast a cache is built on this machine, against the encoder alone.

The limit is the encoder on pixels that are ready in memory. A build also reads, hashes,
decodes and resizes JPEG files and writes shards, all of which should run beside the encoder.
Both are timed in turn, so that what else the machine does weighs on both.
"""

from __future__ import annotations

import shutil
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from leakcache.autoencoder import Encoder
from leakcache.build import build_cache
from leakcache.encode import BATCH
from leakcache.images import Preprocessing, decode, preprocess
from leakcache.index import DatasetIndex, ImageRecord


@dataclass(frozen=True)
class BuildSpeed:
    """What was measured, one entry a round.

    Attributes:
        bare: seconds an image of the encoder on ready pixels.
        whole: seconds an image of a build, from files to a finished cache.
        bf16_error: relative RMS error of latents in bf16.
    """

    bare: tuple[float, ...]
    whole: tuple[float, ...]
    bf16_error: float

    @property
    def build(self) -> float:
        """Median seconds an image of a build."""
        return median(self.whole)

    @property
    def of_limit(self) -> float:
        """Median over rounds of a build's throughput as a share of the bare encoder's."""
        return median(bare / whole for bare, whole in zip(self.bare, self.whole, strict=True))


def measure_build(
    spec: str,
    device: str = "cpu",
    precision: str = "fp32",
    *,
    images: int = 96,
    rounds: int = 3,
    side: int = 512,
) -> BuildSpeed:
    """Time the bare encoder and whole builds in turn, after a warm-up.

    Args:
        spec: the autoencoder.
        device: where to encode.
        precision: arithmetic of the encoder.
        images: in one build.
        rounds: builds.
        side: of the JPEG files in pixels.
    """
    with tempfile.TemporaryDirectory(prefix="leak-speed-") as scratch:
        bench = BuildBench(Encoder.load(spec, precision, device), Path(scratch), images, side)
        bench.bare(BATCH)
        bare: list[float] = []
        whole: list[float] = []
        for turn in range(rounds):
            timed = [(bare, bench.bare), (whole, bench.whole)]
            # Each goes first in turn, so that a steady drift cancels.
            for found, work in timed if turn % 2 else reversed(timed):
                found.append(_seconds(work) / images)
        reduced = Encoder.load(spec, "bf16", device)
        return BuildSpeed(tuple(bare), tuple(whole), reduced.relative_error(bench.pixels[:BATCH]))


class BuildBench:
    """JPEG files to build from, and the same pixels ready for the encoder.

    Attributes:
        folder: of the cache.
        pixels: of every file, as the build cuts them.
    """

    pixels: Tensor

    def __init__(self, encoder: Encoder, folder: Path, images: int, side: int) -> None:
        self._encoder = encoder
        self.folder = folder / "cache"
        self._index = write_pictures(folder / "images", images, side)
        paths = [folder / "images" / record.path for record in self._index.records]
        views = [preprocess(decode(path.read_bytes()), Preprocessing()) for path in paths]
        self.pixels = torch.from_numpy(np.concatenate(views))

    def bare(self, images: int | None = None) -> None:
        """Encode the ready pixels of so many images, or of all."""
        for batch in torch.split(self.pixels[:images], BATCH):
            self._encoder.encode_bytes(batch).cpu()

    def whole(self) -> None:
        """Build a cache from the files, where there is none."""
        shutil.rmtree(self.folder, ignore_errors=True)
        build_cache(self._index, self._encoder, self.folder)


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


def _seconds(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start
