"""Other results on a run's data, found beside it: audits, evaluations, ablations, benchmarks."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from leakcache.errors import RunError
from leakcache.files import parse_json, read_checked
from leakcache.store.manifest import FILE as MANIFEST
from leaknet.checksums import read_text
from leaknet.model.run_record import CONFIG
from leaknet.report.metric_labels import (
    BY_KEY,
    CLOSED,
    VERDICTS,
    Figure,
    Measure,
    measured_in,
)
from leaknet.report.run_data import ScoredRun
from leaknet.report.svg import Axis, Curves, Frame, curves

LIMIT = 20_000_000
"""Size in bytes from which a JSON file is taken for something other than a table of results."""


@dataclass(frozen=True)
class Row:
    """A row of a table of figures, and a note beside its name."""

    name: str
    figures: tuple[Figure, ...]
    note: str = ""


@dataclass(frozen=True)
class Table:
    """A table of figures.

    Attributes:
        title: what it compares.
        first: heading of the first column.
        measures: of the other columns.
        rows: in order.
        notes: sentences to read with it.
        source: the file it was read from.
        curves: the same as lines, where the columns are steps.
    """

    title: str
    first: str
    measures: tuple[Measure, ...]
    rows: tuple[Row, ...]
    notes: tuple[str, ...]
    source: str
    curves: Curves | None = None


@dataclass(frozen=True)
class Related:
    """Results on the same data.

    Attributes:
        audits: `Audit.as_dict` of each audit.
        tables: of evaluations, ablations and benchmarks.
    """

    audits: tuple[dict[str, Any], ...] = ()
    tables: tuple[Table, ...] = field(default=())


def find_related(run: ScoredRun) -> Related:
    """Results whose files name the run's cache (or, for benchmarks, its known generators).

    Raises:
        RunError: a file of results has changed since it was written.
    """
    if run.record.cache is None:
        return Related()
    cache = Path(run.record.cache.folder)
    audits, tables = list(_audits(cache)), list[Table]()
    folders = run.folder.resolve().parents[:2]
    files = {file for folder in folders for file in folder.glob("*/*.json") if _result(file)}
    for file in sorted(files):
        content = _read(file)
        name = f"{file.parent.name}/{file.name}"
        if "protocol" in content and _same(content["protocol"].get("cache"), cache):
            tables += _evaluation(content, name)
            audits += [content["controls"]["audit"]] if content["controls"].get("audit") else []
        elif "ablation" in content and _same(content.get("cache"), cache):
            tables.append(_ablation(content, name))
        elif file.name == "bench.json" and content.get("classes") == list(run.classes):
            tables += _benchmark(content, name)
    return Related(tuple(audits), tuple(tables))


def audit_file(caches: Path, root: Path, canonical: int | None) -> Path:
    """Where the audit of a data root is kept."""
    form = f"-canonical{canonical}" if canonical else ""
    return caches / f"audit-{root.resolve().name}{form}.json"


def _audits(cache: Path) -> Iterator[dict[str, Any]]:
    """Audits of the data of a cache, on the form that was encoded; none if the cache is gone."""
    try:
        manifest = read_checked(cache / MANIFEST)
    except (OSError, ValueError, KeyError):
        return
    preprocessing = manifest.get("encoding", {}).get("preprocessing", {})
    canonical = preprocessing.get("canonical_size") if preprocessing.get("canonical") else None
    audit = _read(audit_file(cache.parent.parent, Path(manifest["data"]), canonical))
    if audit and Path(audit["data"]).resolve() == Path(manifest["data"]).resolve():
        yield audit


def _result(file: Path) -> bool:
    """Whether a file may be a table of results, not of a run."""
    return file.stat().st_size < LIMIT and not (file.parent / CONFIG).is_file()


def _read(file: Path) -> dict[str, Any]:
    try:
        content = parse_json(read_text(file))
    except RunError:
        raise
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def _same(given: Any, cache: Path) -> bool:
    return given is not None and Path(given).resolve() in (cache.resolve(), cache.parent.resolve())


def _measures(*keys: str) -> tuple[Measure, ...]:
    return tuple(BY_KEY[key] for key in keys)


def _row(name: str, group: dict[str, Any], ends: dict[str, Any], *keys: str, note: str = "") -> Row:
    figures = {**group, "interval": ends}
    return Row(name, tuple(Figure.of(figures, key) for key in keys), note)


def _evaluation(content: dict[str, Any], source: str) -> Iterator[Table]:
    """Means over seeds, and the generators left out in turn."""
    seeds = content["protocol"]["seeds"]
    preset = content["protocol"]["config"]["preset"]
    notes = (f"Preset {preset}, mean over {len(seeds)} seeds; 95 % intervals over images.",)
    closed = content["closed"]
    measures = measured_in(CLOSED, closed)
    keys = tuple(m.key for m in measures)
    rows = [_row("prototypes, test", closed, closed["interval"], *keys)]
    rows += [_row("Mahalanobis, test", *_pair(closed["mahalanobis"]), *keys)]
    yield Table("Known generators over seeds", "Scorer", measures, tuple(rows), notes, source)
    titles = {"open": "Unknown generators over seeds", "leave_out": "Generators left out in turn"}
    for key, title in titles.items():
        if key in content:
            yield _open_table(content[key], title, notes, source)
    transfer = content.get("transfer", {})
    if transfer or "real" in content.get("answers", {}).get("all", {}):
        yield _situations(content, transfer, notes, source)
    for name, group in transfer.items():
        if not group.get("steps"):
            yield from _transfer(name, group, notes, source)


def _situations(
    content: dict[str, Any], transfer: dict[str, Any], notes: tuple[str, ...], source: str
) -> Table:
    """Answers on test images, on test photographs, and on images in other situations."""
    answers, sets = content.get("answers", {}).get("all", {}), {}
    for where, key in {"test images": "known", "test photographs": "real"}.items():
        if found := answers.get(key):
            sets[where] = _as_verdicts(found), _as_verdicts(answers["interval"][key])
    if "test images" in sets:
        for values, own in zip(sets["test images"], _pair(content["closed"]), strict=True):
            values |= {key: own[key] for key in ("top1", "macro_auc") if key in own}
    for name, group in transfer.items():
        steps = group.get("steps", 0)
        where = f"after {steps} degradation operations" if steps else name
        sets[f"{where} ({group['images']} images)"] = _pair(group)
    groups = [values for values, _ in sets.values()]
    measures = measured_in((CLOSED[0], BY_KEY["macro_auc"], *VERDICTS), *groups)
    keys = tuple(m.key for m in measures)
    rows = tuple(_row(where, values, own, *keys) for where, (values, own) in sets.items())
    words = "Images of known generators; calibration promises coverage on those like test images."
    return Table("Answers by situation", "Images", measures, rows, (words, *notes), source)


def _as_verdicts(group: dict[str, Any]) -> dict[str, Any]:
    """Answers under the names that they have in transfer."""
    names = {"false_alarms": "unknown", "named_right": "right", "named_wrong": "wrong"}
    return {names.get(key, key): value for key, value in group.items()}


def _transfer(
    name: str, group: dict[str, Any], notes: tuple[str, ...], source: str
) -> Iterator[Table]:
    """The same generators in another collection, beside the run's own test images of them."""
    ends = group.get("interval") or {}
    sets = {
        f"{name} ({group['images']} images)": (group, ends),
        "own test images": (group["test"], ends.get("test") or {}),
    }
    auroc = Measure(
        "auroc",
        "AUROC",
        "Own test images against the other collection, by the highest logit.",
        chance=0.5,
    )
    measures = measured_in((*CLOSED[:2], BY_KEY["macro_auc"], auroc), group)
    keys = tuple(m.key for m in measures)
    rows = tuple(_row(where, values, own, *keys) for where, (values, own) in sets.items())
    words = "Images of the same generators from another pipeline; none of them was trained on."
    title = f"Another collection: {name}"
    yield Table(title, "Images", measures, rows, (words, *notes), source)
    columns = (
        Measure("other", name, f"Top-1 on {name}.", percent=True),
        Measure("test", "Own test images", "Top-1 on the run's own test images.", percent=True),
    )
    recall = ends.get("recall") or {}
    rows = tuple(
        _row(generator, both, recall.get(generator) or {}, "other", "test")
        for generator, both in group["recall"].items()
    )
    yield Table(f"{title}, each generator", "Generator", columns, rows, notes, source)


def _pair(group: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    return group, group.get("interval") or {}


def _open_table(group: dict[str, Any], title: str, notes: tuple[str, ...], source: str) -> Table:
    keys = ("auroc", "fpr95", "eer", "ovl")
    ends = group.get("interval") or {}
    skipped = {"sd", "interval", "closed"}
    names = [n for n, v in group.items() if isinstance(v, dict) and n not in skipped]
    order = sorted(names, key=lambda n: (n not in ("mean", "worst"), n))
    rows = tuple(_row(n, group[n], ends.get(n) or {}, *keys) for n in order if "auroc" in group[n])
    return Table(title, "Generator", _measures(*keys), rows, notes, source)


def _ablation(content: dict[str, Any], source: str) -> Table:
    keys = [k for k in BY_KEY if any(row.get(k) is not None for row in content["rows"])]
    rows = tuple(
        _row(row["name"], *_pair(row), *keys, note=row["reason"] or "") for row in content["rows"]
    )
    notes = (f"Mean over {len(content['seeds'])} seeds; 95 % intervals over images.",)
    title = f"Ablation {content['ablation']}: {content['title']}"
    return Table(title, "Row", _measures(*keys), rows, notes, source)


def _benchmark(content: dict[str, Any], source: str) -> Iterator[Table]:
    """Methods by degradation step: robustness, where there is more than one step."""
    keys = ("top1", "macro_auc", "open_auroc")
    measures = (*_measures("top1", "macro_auc"), BY_KEY["auroc"])
    limit = content.get("limit")
    notes = ["Step 0: images as they are; steps 1 to 3: degraded copies, each stronger."]
    notes += [f"At most {limit} images of each fold: not the figures above."] if limit else []
    if len(content["steps"]) > 1:
        yield _robustness(content, tuple(notes), source)
    for step in content["steps"]:
        rows = tuple(
            _row(row["method"], *_pair(row), *keys, note=row["reason"] or "")
            for row in content["rows"]
            if row["step"] == step
        )
        yield Table(f"Methods, step {step}", "Method", measures, rows, tuple(notes), source)


def _robustness(content: dict[str, Any], notes: tuple[str, ...], source: str) -> Table:
    """Macro AUC of each method by step."""
    meaning = BY_KEY["macro_auc"].meaning
    measures = tuple(Measure(str(s), f"Step {s}", meaning, chance=0.5) for s in content["steps"])
    rows = tuple(
        Row(
            method,
            tuple(
                next(
                    (
                        Figure.of(row, "macro_auc")
                        for row in content["rows"]
                        if (row["method"], row["step"]) == (method, step)
                    ),
                    Figure(None),
                )
                for step in content["steps"]
            ),
        )
        for method in dict.fromkeys(row["method"] for row in content["rows"])
    )
    title, drawn = "Robustness: macro AUC by step", _robustness_curves(content["steps"], rows)
    return Table(title, "Method", measures, rows, notes, source, drawn)


def _robustness_curves(steps: list[int], rows: tuple[Row, ...]) -> Curves:
    """Methods that were measured at every step, ranked by their mean."""
    values = {row.name: [f.value for f in row.figures if f.value is not None] for row in rows}
    lines = {name: (steps, found) for name, found in values.items() if len(found) == len(steps)}
    means = {name: sum(found) / len(found) for name, (_, found) in lines.items()}
    ticks = tuple((float(step), str(step)) for step in steps)
    lowest = min((v for _, found in lines.values() for v in found), default=0.5)
    frame = Frame(
        Axis("step", float(steps[0]), float(steps[-1]), ticks),
        Axis.spanning("macro AUC", min(0.5, lowest), 1.0),
        width=400,
        height=330,
    )
    return curves(frame, lines, means, "Macro AUC of each method by step")
