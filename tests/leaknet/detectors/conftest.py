"""Synthetic embeddings: Gaussian classes in few dimensions, with logits that fit them."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from leaknet.data.embeddings import Embeddings

CLASSES = ("alpha", "beta", "gamma")
DIMENSION = 6

Maker = Callable[..., Embeddings]


@pytest.fixture(scope="session")
def centres() -> np.ndarray:
    return 4 * np.random.default_rng(99).standard_normal((4, DIMENSION))


@pytest.fixture(scope="session")
def make(centres: np.ndarray) -> Maker:
    """Builder of `counts` images per class, in one fold; class 3 is an unknown generator."""

    def build(counts: tuple[int, ...], fold: str, seed: int = 0) -> Embeddings:
        rng = np.random.default_rng(seed)
        targets = np.repeat(np.arange(len(counts)), counts)
        n = len(targets)
        vectors = centres[targets] + rng.standard_normal((n, DIMENSION))
        gaps = vectors[:, None] - centres[None, : len(CLASSES)]
        names = np.array([*CLASSES, "delta"])
        return Embeddings(
            vectors=vectors,
            logits=-np.square(gaps).sum(axis=2) / 10,
            attention=np.full((n, 3), 1 / 3),
            labels=names[targets],
            groups=np.array([f"g{i % 7}" for i in range(n)]),
            folds=np.full(n, fold),
            hashes=np.array([f"{fold}-{seed}-{i}" for i in range(n)]),
            paths=np.array([f"{fold}/{i}.png" for i in range(n)]),
            classes=CLASSES,
        )

    return build


@pytest.fixture(scope="session")
def train(make: Maker) -> Embeddings:
    return make((40, 30, 20), "train", seed=1)


@pytest.fixture(scope="session")
def val(make: Maker) -> Embeddings:
    return make((15, 15, 15), "val", seed=2)


@pytest.fixture(scope="session")
def test(make: Maker) -> Embeddings:
    return make((20, 20, 20), "test", seed=3)


@pytest.fixture(scope="session")
def unknown(make: Maker) -> Embeddings:
    return make((0, 0, 0, 50), "open", seed=4)
