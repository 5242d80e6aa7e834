"""Small ablations and caches that the tests of this folder share."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from leakcache.store.cache import Cache
from leakcache.store.manifest import Encoding
from leaknet.experiments.ablation_run import AblationPlan
from leaknet.experiments.ablation_spec import Ablation, read_ablation
from tests.leaknet.experiments.synthetic import ENCODING, closed_cache
from tests.leaknet.tiny import tiny_config

HEADS = """
title = "Heads"
reference = "four"

[[row]]
name = "linear"
head.prototypes = 0
published = { top1 = 0.7263 }

[[row]]
name = "four"
head.prototypes = 4
"""


def written(folder: Path, text: str, name: str = "mine.toml") -> Ablation:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_text(text, encoding="utf-8")
    return read_ablation(folder / name)


def plan(ablation: Ablation, out: Path, *overrides: str, seeds: int = 2) -> AblationPlan:
    out.mkdir(parents=True, exist_ok=True)
    config = tiny_config("train.epochs=1", "train.learning_rate=3e-3", *overrides)
    return AblationPlan(out=out, seeds=seeds, ablation=ablation, base=config)


def encoding(name: str, weights: str, precision: str = "fp32") -> Encoding:
    autoencoder = replace(ENCODING.autoencoder, name=name, weights_sha256=weights * 64)
    return replace(ENCODING, autoencoder=autoencoder, precision=precision)


def cache_of(folder: Path, name: str, weights: str, precision: str = "fp32") -> Cache:
    return closed_cache(folder / "closed", encoding=encoding(name, weights, precision))
