"""Run folders made of invented embeddings by the code that writes real ones."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from leakcache.encoder.autoencoder import AutoencoderIdentity
from leakcache.images.decode import Preprocessing
from leakcache.store.manifest import Encoding
from leaknet.config import RunConfig, preset
from leaknet.data.embeddings import Embeddings, concatenate
from leaknet.detectors import Detector, GlobalKDE, MaxLogit
from leaknet.files import save_tensors
from leaknet.model.protoleaknet import WEIGHTS, ProtoLeakNet
from leaknet.model.run_record import CacheIdentity, RunRecord
from leaknet.scoring.run_embeddings import UNKNOWN
from leaknet.scoring.score_run import evaluate_run, fit_run
from leaknet.training.run_folder import EpochRecord, RunFolder, write_history
from tests.leaknet.tiny import SHAPE, tiny_config

DIMENSION = 6
IDENTITY = AutoencoderIdentity(
    "toy", "weights/toy vae.safetensors", "here", "AutoencoderTiny", "c" * 64, 4, 1.0, 0.0
)
CACHE = CacheIdentity(
    "f" * 64, "e" * 64, Encoding(IDENTITY, Preprocessing(), "bf16", "float16"), "/data/toy/closed"
)


@dataclass(frozen=True)
class Recipe:
    """What an invented run looks like; the default has everything.

    Attributes:
        classes, unknown: generators.
        images: of each generator in each fold.
        per_prompt: images that share a prompt group; 0 for one group in all.
        overrides: of the tiny configuration.
        kinds: detectors.
        epochs: of the history; 0 leaves the file out.
        apart: distance between generators in deviations.
        preset: whose branches the run has.
        cache: what it was trained on.
        keep_unknown: whether the embeddings of the unknown images were kept.
    """

    classes: Sequence[str] = ("ada", "bob", "cyd")
    unknown: Sequence[str] = ("eve", "fay")
    images: int = 12
    per_prompt: int = 2
    overrides: Sequence[str] = ()
    kinds: Sequence[type[Detector]] = (GlobalKDE, MaxLogit)
    epochs: int = 3
    apart: float = 0.5
    preset: str = "paper"
    cache: CacheIdentity = CACHE
    keep_unknown: bool = False


def write_run(folder: Path, recipe: Recipe) -> Path:
    """Write all that training and scoring would have written."""
    folder.mkdir(parents=True)
    config = _config(recipe)
    record = RunRecord(config, tuple(recipe.classes), SHAPE, recipe.cache)
    record.write(folder)
    save_tensors(folder / WEIGHTS, {"weights": torch.zeros(1)})
    if recipe.epochs:
        write_history(folder, _history(recipe.epochs))
    score_again(folder, recipe)
    return folder


def _config(recipe: Recipe) -> RunConfig:
    small = tiny_config("statistics.enabled=true", *recipe.overrides)
    if recipe.preset == "paper":
        return tiny_config(*recipe.overrides)
    return replace(preset(recipe.preset), head=small.head, latents=small.latents, train=small.train)


def score_again(folder: Path, recipe: Recipe) -> None:
    """Write all that scoring would have written."""
    run, record = RunFolder(folder), RunRecord.read(folder)
    folds = [_embeddings(recipe, fold, run.fingerprint()) for fold in ("train", "val", "test")]
    known = concatenate(folds)
    unknown = _embeddings(recipe, "open", run.fingerprint()) if recipe.unknown else None
    kinds = recipe.kinds if recipe.unknown else ()
    model = ProtoLeakNet(record.config, record.classes, SHAPE)
    evaluate_run(run, model, known, unknown, fit_run(run, known, kinds))
    known.save(run.embeddings)
    if recipe.keep_unknown and unknown is not None:
        unknown.save(folder / UNKNOWN)


def _embeddings(recipe: Recipe, fold: str, run: str) -> Embeddings:
    """Gaussian clouds around one centre a generator; logits are minus squared distances."""
    rng = np.random.default_rng(["train", "val", "test", "open"].index(fold))
    steps = len(_config(recipe).latents.timesteps)
    centres = recipe.apart * np.random.default_rng(99).standard_normal((200, DIMENSION))
    names = recipe.unknown if fold == "open" else recipe.classes
    start = len(recipe.classes) if fold == "open" else 0
    labels = np.repeat(list(names), recipe.images)
    own = np.repeat(centres[start : start + len(names)], recipe.images, axis=0)
    vectors = own + rng.standard_normal(own.shape)
    offsets = vectors[:, None] - centres[None, : len(recipe.classes)]
    numbers = np.tile(np.arange(recipe.images), len(names))
    groups = [f"{fold}{n // recipe.per_prompt if recipe.per_prompt else ''}" for n in numbers]
    paths = [f"{label}/{fold}{n}.png" for label, n in zip(labels, numbers, strict=True)]
    logits = -np.square(offsets).sum(axis=2)
    return Embeddings(
        vectors=vectors,
        logits=logits,
        branches=dict.fromkeys(_config(recipe).branches, logits),
        attention=rng.dirichlet(np.full(steps, 20.0), size=len(labels)),
        labels=labels,
        groups=np.array(groups),
        folds=np.full(len(labels), fold),
        hashes=np.array([hashlib.sha256(path.encode()).hexdigest() for path in paths]),
        paths=np.array(paths),
        classes=tuple(recipe.classes),
        run=run,
    )


def _history(epochs: int) -> list[EpochRecord]:
    areas = 0.9 - 0.1 / np.arange(1, epochs + 1)
    return [
        EpochRecord(
            branch="latents",
            epoch=epoch,
            loss=1.0 / epoch,
            val_loss=1.2 / epoch,
            val_macro_auc=float(areas[epoch - 1]),
            val_top1=0.5,
            best=True,
            temperature=1.0,
            attention=(0.3, 0.3, 0.4),
            seconds=1.5,
            images_per_second=100.0,
        )
        for epoch in range(1, epochs + 1)
    ]
