"""Synthetic closed embeddings whose logits are as informative as a test asks for."""

from __future__ import annotations

import numpy as np

from leaknet.data.embeddings import Embeddings

CLASSES = ("ada", "bob", "cyd")


def closed(
    prompts: int,
    *,
    signal: float = 1.5,
    scale: float = 1.0,
    seed: int = 0,
    folds: tuple[str, ...] = ("train", "val", "test"),
) -> Embeddings:
    """`prompts` prompts a fold, each shown by every class; `scale` miscalibrates the logits."""
    rng = np.random.default_rng(seed)
    targets = np.tile(np.arange(len(CLASSES)), prompts * len(folds))
    n = len(targets)
    prompt = np.arange(n) // len(CLASSES)
    logits = signal * np.eye(len(CLASSES))[targets] + rng.standard_normal((n, len(CLASSES)))
    names = np.array([f"{row}" for row in range(n)])
    return Embeddings(
        vectors=np.concatenate([logits, rng.standard_normal((n, 2))], axis=1),
        logits=scale * logits,
        attention=np.ones((n, 1)),
        labels=np.array(CLASSES)[targets],
        groups=np.array([f"prompt {number}" for number in prompt.tolist()]),
        folds=np.repeat(folds, prompts * len(CLASSES)),
        hashes=names,
        paths=names,
        classes=CLASSES,
        run="made up",
    )
