"""Embeddings and caches made up for the protocols' tests."""

from __future__ import annotations

from dataclasses import astuple
from pathlib import Path

import numpy as np
import torch

from leakcache.dataset.index import ImageRecord
from leakcache.encoder.autoencoder import AutoencoderIdentity
from leakcache.images.decode import Preprocessing
from leakcache.store.cache import Cache
from leakcache.store.manifest import Encoding
from leaknet.data.embeddings import Embeddings
from tests.leaknet.tiny import (
    CLASSES,
    SHAPE,
    image_ids,
    patterned_latents,
    random_latents,
    store_cache,
)

ENCODING = Encoding(
    AutoencoderIdentity(
        name="tiny",
        spec="tiny",
        source="here",
        kind="AutoencoderTiny",
        weights_sha256="a" * 64,
        channels=SHAPE[0],
        scaling_factor=1.0,
        shift_factor=0.0,
    ),
    Preprocessing(size=8 * SHAPE[1]),
    "fp32",
    "float16",
)
COUNTS = {"train": 24, "val": 12, "test": 12}


def rows_of(fold: str, labels: tuple[str, ...], prompts: int, root: str) -> list[ImageRecord]:
    """One image a prompt and label; the labels of a fold share their prompts."""
    return [
        ImageRecord(f"{root}/{label}/{fold}{prompt}.png", label, f"{fold}{prompt}", fold)
        for label in labels
        for prompt in range(prompts)
    ]


def write_cache(
    folder: Path,
    records: list[ImageRecord],
    z0: torch.Tensor,
    *,
    root: str = "images",
    hashes: list[str] | None = None,
    encoding: Encoding = ENCODING,
) -> Cache:
    """A finished cache, written by the code that a build uses."""
    ids = hashes or image_ids([record.path for record in records]).tolist()
    rows = zip(*(astuple(record) for record in records), strict=True)
    table = dict(zip(("path", "label", "group", "fold"), map(list, rows), strict=True))
    table |= {"sha256": ids, "bytes": [1] * len(records)}
    return store_cache(folder, table, z0[:, None].half().numpy(), encoding, root)


def closed_cache(
    folder: Path,
    labels: tuple[str, ...] = CLASSES,
    *,
    one_prompt: bool = False,
    encoding: Encoding = ENCODING,
) -> Cache:
    """Known generators, each with a faint pattern, on prompts that they share."""
    records = [
        record
        for fold, prompts in COUNTS.items()
        for record in rows_of(fold, labels, prompts, "closed")
    ]
    if one_prompt:
        records = [ImageRecord(r.path, r.label, "all", r.fold) for r in records]
    z0, _ = patterned_latents(len(records), 1, seed=5)
    patterns = random_latents(len(labels), seed=77)
    numbers = torch.tensor([labels.index(record.label) for record in records])
    return write_cache(folder, records, z0 + 0.7 * patterns[numbers], encoding=encoding)


def open_cache(folder: Path, name: str, seed: int, hashes: list[str] | None = None) -> Cache:
    """One unknown generator; its files have the names of the closed test prompts."""
    records = [
        ImageRecord(f"{name}/test{prompt}.png", name, f"test{prompt}", "open")
        for prompt in range(10)
    ]
    return write_cache(
        folder, records, 1.5 * random_latents(10, seed=seed), root=f"/far/{name}", hashes=hashes
    )


def embeddings(
    count: int,
    fold: str,
    *,
    seed: int = 0,
    dimension: int = 32,
    signal: float = 1.0,
    label: str | None = None,
    groups: int = 7,
) -> Embeddings:
    """Standard normal vectors around three centres; logits are minus the squared distances."""
    rng = np.random.default_rng([seed, *fold.encode()])
    centres = signal * np.random.default_rng(1000).standard_normal((3, dimension))
    targets = np.arange(count) % 3
    vectors = centres[targets] + rng.standard_normal((count, dimension))
    names = [f"{fold}/{seed}/{row}" for row in range(count)]
    return Embeddings(
        vectors=vectors,
        logits=-np.square(vectors[:, None] - centres).sum(axis=2) / dimension,
        attention=np.full((count, 3), 1 / 3),
        labels=np.array(CLASSES)[targets] if label is None else np.full(count, label),
        groups=np.array([f"{fold}{row % groups}" for row in range(count)]),
        folds=np.full(count, fold),
        hashes=image_ids(names),
        paths=np.array(names),
        classes=CLASSES,
        seed=seed,
    )
