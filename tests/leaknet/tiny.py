"""Small models and latents that the tests of stage two share."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch

from leakcache.encoder.autoencoder import AutoencoderIdentity
from leakcache.images.decode import Preprocessing
from leakcache.statistics.planes import dct_low
from leakcache.store.cache import Cache, LatentMoments, Moments
from leakcache.store.column_store import ColumnStore
from leakcache.store.columns import COLUMNS
from leakcache.store.manifest import CacheManifest, Encoding
from leaknet.config import RunConfig
from leaknet.data.columns import ImageColumns, TrainingData
from leaknet.model.latent_branch import LatentBranch
from leaknet.model.protoleaknet import ProtoLeakNet
from leaknet.model.run_record import RunRecord
from leaknet.training.train import TrainResult, fit

SHAPE = (4, 16, 16)
CLASSES = ("ada", "bob", "cyd")


def tiny_config(*overrides: str) -> RunConfig:
    small = ["latents.backbone=test_resnet", "head.dimension=8", "train.batch_size=8"]
    return RunConfig().with_overrides([*small, *overrides])


def tiny_model(*overrides: str, seed: int = 0) -> ProtoLeakNet:
    model = ProtoLeakNet(tiny_config(f"train.seed={seed}", *overrides), CLASSES, SHAPE)
    moments = moments_of(random_latents(64))
    if model.latents is not None:
        model.latents.features.fit(moments.latent, moments.dct)
    return model


def tiny_latents(*overrides: str) -> LatentBranch:
    """The branch of latents of a tiny model."""
    branch = tiny_model(*overrides).latents
    assert branch is not None
    return branch


def random_latents(count: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(count, *SHAPE, generator=torch.Generator().manual_seed(seed))


def moments_of(z0: torch.Tensor) -> LatentMoments:
    pixels = z0.double().movedim(1, -1).reshape(-1, z0.shape[1])
    return LatentMoments(Moments.of(pixels.numpy()), Moments.of(dct_low(z0.double(), 16).numpy()))


def image_ids(names: Sequence[object]) -> np.ndarray:
    return np.array([hashlib.sha256(str(name).encode()).hexdigest() for name in names])


def patterned_latents(count: int, classes: int, seed: int = 0) -> tuple[torch.Tensor, np.ndarray]:
    """Noise with a faint fixed pattern of its class: learnable, but not from the mean alone."""
    patterns = torch.randn(classes, *SHAPE, generator=torch.Generator().manual_seed(1234))
    numbers = np.arange(count) % classes
    return random_latents(count, seed) + 0.5 * patterns[numbers], numbers


def tiny_split(
    count: int, fold: str, *, classes: int = 3, views: int = 1, seed: int = 0
) -> ImageColumns:
    """Images of the first few `CLASSES`, in turn."""
    z0, numbers = patterned_latents(count, classes, seed)
    crops = [z0 + 0.1 * random_latents(count, 100 + view) for view in range(views)]
    names = np.array([f"{fold}/{seed}/{index}" for index in range(count)])
    labels = np.array(CLASSES)[numbers]
    return ImageColumns(
        labels,
        names,
        np.full(count, fold),
        image_ids(names),
        names,
        {"z0": torch.stack(crops, dim=1).half()},
    )


def tiny_data(count: int = 48, **options: int) -> TrainingData:
    train = tiny_split(count, "train", seed=1, **options)
    return TrainingData(
        train, tiny_split(24, "val", seed=2, **options), moments_of(train.z0.flatten(0, 1))
    )


def tiny_record(*overrides: str, classes: tuple[str, ...] = CLASSES) -> RunRecord:
    return RunRecord(tiny_config(*overrides), classes, SHAPE)


def tiny_cache(folder: Path, *, views: int = 1, weights: str = "a" * 64, extra: int = 0) -> Cache:
    """A finished cache on disk, written by the code that a build uses."""
    splits = [
        tiny_split(48 + extra, "train", views=views, seed=1),
        tiny_split(24, "val", views=views, seed=2),
        tiny_split(24, "test", views=views, seed=3),
        tiny_split(12, "open", views=views, seed=4),
    ]
    table: dict[str, list[Any]] = {
        name: [] for name in ("path", "label", "group", "fold", "sha256", "bytes")
    }
    z0 = []
    for split in splits:
        for row, path in enumerate(split.paths.tolist()):
            label = "eve" if split.folds[row] == "open" else str(split.labels[row])
            table["path"].append(path)
            table["label"].append(label)
            table["group"].append(str(split.groups[row]))
            table["fold"].append(str(split.folds[row]))
            table["sha256"].append(str(split.hashes[row]))
            table["bytes"].append(1)
        z0.append(split.z0.numpy())
    encoding = Encoding(
        AutoencoderIdentity(
            name="tiny",
            spec="tiny",
            source="here",
            kind="AutoencoderTiny",
            weights_sha256=weights,
            channels=SHAPE[0],
            scaling_factor=1.0,
            shift_factor=0.0,
        ),
        Preprocessing("resize" if views == 1 else "crop", 8 * SHAPE[1], views),
        "fp32",
        "float16",
    )
    return store_cache(folder, table, np.concatenate(z0), encoding, "images")


def store_cache(
    folder: Path, table: dict[str, list[Any]], z0: np.ndarray, encoding: Encoding, data: str
) -> Cache:
    """A finished cache of made-up latents, written by the code that a build uses."""
    store, spec = ColumnStore(folder.parent), COLUMNS["z0"].spec(encoding)
    store.fill(spec, table["sha256"], lambda rows: z0[rows], lambda done: None)
    CacheManifest(encoding, "all", data, "made up", table, (), {}).write(folder)
    return Cache.open(folder)


@contextmanager
def silent(description: str, total: int, unit: str) -> Iterator[Callable[[int], None]]:
    """Progress that nobody sees."""
    yield lambda units: None


def fit_tiny(
    folder: Path, *overrides: str, data: TrainingData | None = None, **options: Any
) -> TrainResult:
    given = {"device": torch.device("cpu"), "track": silent, **options}
    return fit(tiny_record(*overrides), data or tiny_data(), folder, **given)
