"""The report of one run or of several side by side; its sections on provenance and caveats."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from leakcache.errors import RunError
from leaknet.config import RunConfig, config_to_table, preset
from leaknet.files import write_text
from leaknet.report.metric_labels import CLOSED, OPEN, Figure, measured_in
from leaknet.report.metric_sections import closed_set, families, open_set, summary
from leaknet.report.model_sections import branches, leak, pca_map, training
from leaknet.report.page import Section, page_text
from leaknet.report.related import Related, find_related
from leaknet.report.run_data import ALPHA, ScoredRun
from leaknet.training.run_folder import RunFolder

COMPARISON = "comparison.html"


def write_page(runs: Sequence[Path], out: Path | None = None) -> Path:
    """Write the report of a scored run, or of several side by side; equal runs give equal bytes.

    Args:
        runs: folders of one run or more.
        out: the file; by default `report.html` in the run, or `comparison.html` beside the first.

    Returns:
        The file written.

    Raises:
        RunError: a run has not been scored or is damaged, or the file cannot be written.
    """
    first = runs[0]
    page = out or (RunFolder(first).report if len(runs) == 1 else first.parent / COMPARISON)
    read = [ScoredRun.read(run) for run in runs]
    content = render(read[0]) if len(read) == 1 else render_comparison(read)
    try:
        page.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RunError(f"{page.parent} cannot be made a folder: {error.strerror}") from error
    write_text(page, content)
    return page


def render(run: ScoredRun) -> str:
    """The page of one run as text."""
    return page_text(
        "run.html",
        run.name,
        _sections(run, find_related(run)),
        version=run.versions.get("leaknet", ""),
        run=run,
        summary=summary(run),
    )


def _sections(run: ScoredRun, related: Related) -> list[Section]:
    sections = [
        Section("closed", "Known", "Known generators: which one?", closed_set(run)),
        Section("open", "Unknown", "Unknown generators: are they detected?", open_set(run)),
        Section("reading", "Reading", "How to read these figures", caveats(run, related)),
        Section("branches", "Evidence", "What the run reads", branches(run)),
        Section("training", "Training", "Training", training(run)),
        Section("map", "Map", "Map of the embeddings", pca_map(run)),
    ]
    if (tree := families(run)) is not None:
        sections.insert(1, Section("families", "Families", "Families of related generators", tree))
    if (maps := leak(run)) is not None:
        sections.insert(-2, Section("leak", "Leak", "What the leak looks like", maps))
    if related.tables:
        tables = {"tables": related.tables}
        sections.append(Section("related", "More results", "More results on this data", tables))
    sections.append(Section("provenance", "Provenance", "Provenance", provenance(run)))
    return sections


def render_comparison(runs: Sequence[ScoredRun]) -> str:
    """The page of several runs as text."""
    content = comparison(runs)
    sections = [
        Section("side", "Metrics", "Metrics", content),
        Section("generators", "Generators", "Each generator", content),
        Section("settings", "Settings", "Settings that differ", content),
    ]
    return page_text(
        "compare.html",
        ", ".join(content["labels"]),
        sections,
        version=runs[0].versions.get("leaknet", ""),
        runs=runs,
        it=content,
    )


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


def comparison(runs: Sequence[ScoredRun]) -> dict[str, Any]:
    """Everything that the page shows."""
    closed = [run.closed["prototype"] for run in runs]
    known = list(dict.fromkeys(name for run in runs for name in run.classes))
    unknown = list(dict.fromkeys(name for run in runs for name in run.unknown))
    opened = [run.open or {} for run in runs]
    return {
        "labels": _labels(runs),
        "same_known": _same(runs, "test"),
        "same_unknown": _same(runs, "open"),
        "closed": _rows(measured_in(CLOSED, *closed), closed),
        "open": _rows(OPEN, opened) if unknown else [],
        "known": [(name, [group["per_class_auc"].get(name) for group in closed]) for name in known],
        "unknown": [
            (name, [Figure((group.get(name) or {}).get("auroc")) for group in opened])
            for name in unknown
        ],
        "settings": _different(runs),
    }


def _labels(runs: Sequence[ScoredRun]) -> list[str]:
    """Names of the runs, with the parent folder where names repeat."""
    names = [run.name for run in runs]
    if len(set(names)) == len(names):
        return names
    return [f"{run.folder.resolve().parent.name}/{run.folder.resolve().name}" for run in runs]


def _rows(measures: Sequence[Any], groups: Sequence[dict[str, Any]]) -> list[tuple[Any, Any]]:
    return [(m, [Figure.of(group, m.key) for group in groups]) for m in measures]


def _same(runs: Sequence[ScoredRun], fold: str) -> bool:
    """Whether all runs were scored on the same images of a fold, by generator and path."""
    tables = [run.table for run in runs]
    first, *others = (np.stack([t.labels, t.paths])[:, t.folds == fold] for t in tables)
    return all(np.array_equal(first, other) for other in others)


def _different(runs: Sequence[ScoredRun]) -> list[tuple[str, list[str]]]:
    """Settings that are not the same in all runs; a dash where a run does not have one."""
    tables = [{"preset": run.metrics["preset"], **settings(run.record.config)} for run in runs]
    keys = list(dict.fromkeys(key for table in tables for key in table))
    rows = [(key, [setting_text(table.get(key)) for table in tables]) for key in keys]
    return [(key, values) for key, values in rows if len(set(values)) > 1]


def caveats(run: ScoredRun, related: Related) -> dict[str, Any]:
    """Facts that the statements of the section depend on."""
    cache = run.record.cache
    cut = cache.encoding.preprocessing if cache else None
    weighted = run.metrics["branches"]["weights"].get("latents", 0) > 0
    resized = weighted and cut is not None and cut.name == "resize"
    return {
        "intervals": bool(run.closed["prototype"]["interval"]["top1"]),
        "accepted": _accepted(run),
        "prompts": _prompts(run),
        "resized": cut.size if resized and cut else None,
        "audits": related.audits,
        "controls": _controls(run),
    }


def _accepted(run: ScoredRun) -> tuple[str, float] | None:
    """The unknown generator of which the most images are not called unknown, and the fraction."""
    found = {}
    for name in run.unknown:
        p_values = run.p_values("open", name)
        if p_values is not None:
            found[name] = float((p_values > ALPHA).mean())
    worst = max(found, key=lambda name: found[name], default=None)
    return None if worst is None else (worst, found[worst])


def _prompts(run: ScoredRun) -> dict[str, int] | None:
    """How many test images share a prompt group with training images."""
    if run.embeddings is None:
        return None
    groups = run.embeddings.groups.tolist()
    trained = set(run.embeddings.select("train").groups.tolist())
    tested = run.embeddings.select("test").groups.tolist()
    return {
        "shared": sum(group in trained for group in tested),
        "tested": len(tested),
        "alone": len(set(groups)) == len(groups),
    }


def _controls(run: ScoredRun) -> dict[str, dict[str, Any]]:
    """The scalars of each control in metrics.json."""
    controls: Mapping[str, Any] = run.metrics.get("controls") or {}
    columns = list(dict.fromkeys(key for group in controls.values() for key in _scalars(group)))
    return {
        name: {key: _scalars(group).get(key) for key in columns} for name, group in controls.items()
    }


def _scalars(group: Any) -> dict[str, Any]:
    if not isinstance(group, Mapping):
        return {"value": group}
    return {k: v for k, v in group.items() if v is None or isinstance(v, (str, int, float))}
