"""Benchmarks of docs/PERFORMANCE.md: training epochs, cache builds, kernel density estimates."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL, AutoencoderTiny
from jaxtyping import Float, UInt8
from PIL import Image
from sklearn.neighbors import KernelDensity
from torch import Tensor, nn

from leakcache.dataset.index import DatasetIndex, ImageRecord
from leakcache.device import torch_threads
from leakcache.encoder.autoencoder import Encoder
from leakcache.images.decode import Preprocessing, decode, preprocess
from leakcache.store.build import build_cache
from leakcache.store.cache import Moments
from leakcache.store.column import BATCH
from leaknet.config import PAPER, Z0, RunConfig
from leaknet.data.columns import ImageColumns
from leaknet.detectors.density import log_density
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

    Epochs over the same images: *bare* runs forward, backward and update on precomputed feature
    maps; *cached* is the real epoch, which also gathers latents and computes noise and features.
    The cost of an encoder in the loop, as in the authors' code, is added from its own timing.

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
    columns: Iterable[str] = (Z0,),
    images: int = 128,
    side: int = 512,
) -> BuildSpeed:
    """Build a cache, then encode its views alone.

    The limit is the encoder on pixels in memory. A build also reads, hashes, decodes and resizes
    JPEG files, computes statistics and writes shards. On a CPU both are measured in seconds of the
    process on all cores, which other work on the machine hardly changes.

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


CPU = torch.device("cpu")
BANDWIDTH = 0.5


@dataclass(frozen=True)
class DensitySpeed:
    """Seconds of one evaluation.

    Attributes:
        ours: `leaknet.detectors.density.log_density`.
        sklearn: `KernelDensity` with defaults, inexact in high dimension.
        sklearn_exact: the same with a single leaf, which is exact.
    """

    ours: float
    sklearn: float
    sklearn_exact: float


def measure_density(
    references: int = 5000, queries: int = 1000, dimension: int = 128, rounds: int = 3
) -> DensitySpeed:
    """Time the three in turn on standard normal data; the fastest round of each counts.

    Args:
        references: number of known embeddings.
        queries: number of embeddings to score.
        dimension: of an embedding.
        rounds: evaluations of each, after one warm-up of ours.
    """
    rng = np.random.default_rng(0)
    known, asked = rng.normal(size=(references, dimension)), rng.normal(size=(queries, dimension))
    tree = KernelDensity(bandwidth=BANDWIDTH).fit(known)
    leaf = KernelDensity(bandwidth=BANDWIDTH, leaf_size=references).fit(known)
    log_density(asked, known, BANDWIDTH)
    evaluations = (
        lambda: log_density(asked, known, BANDWIDTH),
        lambda: tree.score_samples(asked),
        lambda: leaf.score_samples(asked),
    )
    times = [[seconds(evaluate, CPU) for evaluate in evaluations] for _ in range(rounds)]
    return DensitySpeed(*(min(column) for column in zip(*times, strict=True)))
