"""Where the figures come from: cache, autoencoder, settings, versions, commands."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from leaknet.config import RunConfig, config_to_table, preset
from leaknet.report.run_data import ScoredRun


def provenance(run: ScoredRun) -> dict[str, Any]:
    """All that is needed to make the run again, and to check that it is the same."""
    config = run.record.config
    return {
        "facts": list(_facts(run)),
        "changed": {
            key: (setting_text(a), setting_text(b))
            for key, (a, b) in changed_settings(config).items()
        },
        "settings": {key: setting_text(value) for key, value in settings(config).items()},
        "commands": commands(run),
        "learnt": [
            (detector, name, f"{value:.6g}")
            for detector, group in run.metrics["facts"].items()
            for name, value in group.items()
            if isinstance(value, (int, float))
        ],
    }


def _facts(run: ScoredRun) -> Iterator[tuple[str, str, bool]]:
    """Name, value, and whether the value is a hash."""
    yield "Model", run.metrics["model"], True
    yield "Images", ", ".join(f"{n:,} {fold}" for fold, n in run.metrics["images"].items()), False
    cache = run.record.cache
    if cache is None:
        yield "Cache", "not recorded: this model was made by hand", False
    else:
        encoding = cache.encoding
        autoencoder, cut = encoding.autoencoder, encoding.preprocessing
        yield "Cache fingerprint", cache.fingerprint, True
        yield "Training images", cache.training_sha256, True
        if run.latents or (run.statistics and run.statistics.activations):
            words = f"{autoencoder.name} ({autoencoder.kind}), from {autoencoder.source}"
            yield "Autoencoder", words, False
            yield "Autoencoder weights", autoencoder.weights_sha256, True
            yield "Encoder precision", encoding.precision, False
        if run.latents and run.record.shape:
            words = f"{cut.name}, {cut.size} pixels, {cut.views} view(s) per image"
            yield "Preprocessing", words, False
            yield "Latents", f"{' × '.join(map(str, run.record.shape))}, {encoding.stored}", False
    yield "Preset", run.metrics["preset"], False
    yield "Seed", str(run.metrics["seed"]), False
    versions = ", ".join(f"{name} {v}" for name, v in run.versions.items())
    yield "Versions", versions or "not recorded", False


def settings(config: RunConfig) -> dict[str, Any]:
    """Settings by their dotted names, without those of a branch that the run does not have."""
    found = {
        f"{section}.{name}": value
        for section, group in config_to_table(config).items()
        if isinstance(group, dict)
        for name, value in group.items()
    }
    absent = {"latents", "statistics"} - set(config.branches)
    return {
        key: value
        for key, value in found.items()
        if key.split(".")[0] not in absent or key.endswith(".enabled")
    }


def changed_settings(config: RunConfig) -> dict[str, tuple[Any, Any]]:
    """Settings that differ from the preset, as (preset's, this run's), without the seed."""
    usual, own = settings(preset(config.preset)), settings(config)
    return {
        key: (usual.get(key), value)
        for key, value in own.items()
        if usual.get(key) != value and key != "train.seed"
    }


def commands(run: ScoredRun) -> list[str]:
    """Command lines that make the run again."""
    config, folder = run.record.config, run.metrics["run"]
    lines = []
    where: list[str] = []
    if run.record.cache is not None:
        encoding = run.record.cache.encoding
        cut = encoding.preprocessing
        where = ["--cache", str(Path(run.record.cache.folder).parent)]
        build = ["leak", "cache", "build", "--data", "DATA", *where]
        build += ["--vae", encoding.autoencoder.spec, "--view", cut.name, "--size", str(cut.size)]
        build += ["--views", str(cut.views)] if cut.views > 1 else []
        lines.append([*build, "--precision", encoding.precision, "--store", encoding.stored])
    train = ["leak", "train", *where, "--run", folder, "--preset", config.preset]
    train += ["--seed", str(config.train.seed)]
    for key, (_, own) in changed_settings(config).items():
        train += ["--set", f"{key}={setting_text(own)}"]
    score = ["leak", "score", "--run", folder]
    if run.open is not None:
        score += ["--detectors", ",".join(run.metrics["detectors"]), "--open", "UNKNOWN"]
    lines += [train, score, ["leak", "report", folder]]
    return [shlex.join(words) for words in lines]


def setting_text(value: Any) -> str:
    """A setting as `--set` takes it; a dash where there is none."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, (list, tuple)):
        return ",".join(str(item) for item in value)
    return "–" if value is None else str(value)
