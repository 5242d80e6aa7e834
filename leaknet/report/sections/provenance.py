"""Where the figures come from: cache, autoencoder, settings, versions, commands."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from leaknet.config import RunConfig, config_to_table, preset
from leaknet.report.html import (
    Child,
    Html,
    Section,
    cell,
    code,
    element,
    folded,
    heading,
    join,
    key_values,
    paragraph,
    row_name,
    table,
)
from leaknet.report.run_data import ScoredRun


def provenance_section(run: ScoredRun) -> Section:
    """All that is needed to make the run again, and to see that it is the same."""
    body = join(
        key_values(list(_facts(run))),
        heading("Settings that differ from the preset"),
        _changed(run.record.config),
        folded("All settings", _all_settings(run.record.config)),
        heading("Known generators"),
        paragraph(*_class_list(run.classes)),
        heading("The same again"),
        paragraph(
            "DATA and UNKNOWN stand for the folders of images, which a run does not record; the "
            "fingerprint above tells whether they hold the same ones."
        ),
        element("pre", element("code", "\n".join(commands(run)))),
        folded("What the detectors learnt from closed data", _learnt(run.metrics["facts"])),
    )
    return Section("provenance", "Where this comes from", "Provenance", body)


def _facts(run: ScoredRun) -> Iterator[tuple[str, Child]]:
    yield "Model", code(run.metrics["model"])
    yield "Images", ", ".join(f"{n:,} {fold}" for fold, n in run.metrics["images"].items())
    cache = run.record.cache
    if cache is None:
        yield "Cache", "not recorded: this model was made by hand"
    else:
        encoding = cache.encoding
        autoencoder, cut = encoding.autoencoder, encoding.preprocessing
        yield "Cache fingerprint", code(cache.fingerprint)
        yield "Training images", code(cache.training_sha256)
        yield "Autoencoder", f"{autoencoder.name} ({autoencoder.kind}), from {autoencoder.source}"
        yield "Autoencoder weights", code(autoencoder.weights_sha256)
        yield "Preprocessing", f"{cut.name}, {cut.size} pixels, {cut.views} view(s) per image"
        yield "Encoded in", f"{encoding.precision}, stored as {encoding.stored}"
    channel, height, width = run.record.shape
    yield "Latent", f"{channel} × {height} × {width}"
    yield "Preset", run.metrics["preset"]
    yield "Seed", str(run.metrics["seed"])
    yield "Versions", ", ".join(f"{name} {v}" for name, v in run.versions.items()) or "not recorded"


def _settings(config: RunConfig) -> dict[str, Any]:
    """All settings by their dotted names."""
    return {
        f"{section}.{name}": value
        for section, group in config_to_table(config).items()
        if isinstance(group, dict)
        for name, value in group.items()
    }


def changed_settings(config: RunConfig) -> dict[str, tuple[Any, Any]]:
    """Settings that differ from the preset, as (preset's, this run's); the seed is no setting."""
    usual, own = _settings(preset(config.preset)), _settings(config)
    return {
        key: (usual[key], value)
        for key, value in own.items()
        if usual[key] != value and key != "train.seed"
    }


def _changed(config: RunConfig) -> Html:
    changed = changed_settings(config)
    if not changed:
        return paragraph(f"None: this is the preset {config.preset} as it stands.")
    rows = [
        [row_name(key), cell(_toml(usual)), cell(_toml(own))]
        for key, (usual, own) in changed.items()
    ]
    return table(["Setting", f"Preset {config.preset}", "This run"], rows)


def _all_settings(config: RunConfig) -> Html:
    rows = [[row_name(key), cell(_toml(value))] for key, value in _settings(config).items()]
    return table(["Setting", "Value"], rows)


def _class_list(classes: tuple[str, ...]) -> Iterator[Html]:
    for place, name in enumerate(classes):
        yield join(", " if place else "", code(name))


def _learnt(facts: dict[str, dict[str, Any]]) -> Html:
    rows = [
        [row_name(detector), cell(name), cell(f"{value:.6g}")]
        for detector, group in facts.items()
        for name, value in group.items()
        if isinstance(value, (int, float))
    ]
    if not rows:
        return paragraph("No detector has learnt a single number that could be listed.")
    return table(["Detector", "Quantity", "Value"], rows)


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
        train += ["--set", f"{key}={_toml(own)}"]
    score = ["leak", "score", "--run", folder]
    if run.open is not None:
        score += ["--detectors", ",".join(run.metrics["detectors"]), "--open", "UNKNOWN"]
    lines += [train, score, ["leak", "report", folder]]
    return [shlex.join(words) for words in lines]


def _toml(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list):
        return ",".join(str(item) for item in value)
    return str(value)
