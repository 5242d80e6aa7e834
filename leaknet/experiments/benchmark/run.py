"""Compared methods under every seed on the same images: each is fitted once, its embeddings kept.

FOLDER/known.h5             training and validation folds
FOLDER/step0.h5, step1.h5   evaluated images of each step
FOLDER/state.safetensors    what was learned, where the method keeps it
FOLDER/trial.json           parameters and seconds
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import numpy as np
import torch

from leakcache.errors import ConfigError, RunError, ScoringError
from leakcache.files import parse_json
from leaknet.baselines import BASELINES
from leaknet.baselines.base import Baseline, BaselineImages, BaselineOptions
from leaknet.checksums import read_text
from leaknet.data.embeddings import Embeddings, concatenate
from leaknet.detectors import Detector
from leaknet.experiments.benchmark.data import BenchData, StepImages, columns_of
from leaknet.experiments.benchmark.tables import METRICS, OURS, PUBLISHED, BenchResult
from leaknet.experiments.on_actors import Training, train_on_actors
from leaknet.experiments.rows import Job, Outcome, RowResult, run_jobs
from leaknet.experiments.trial import Plan, Trial, evaluated
from leaknet.files import read_tensors, save_tensors, write_json
from leaknet.scoring.fitted_detectors import fit_all

STATE = "state.safetensors"
FACTS = "trial.json"


@dataclass(frozen=True)
class BaselineTrial:
    """One training.

    Attributes:
        known: embeddings of the training and validation folds.
        steps: embeddings of the evaluated images, by step.
        parameters: of the method.
        fitting: seconds that fitting took, cutting pixels included where they were not cached.
        embedding: seconds that embedding took, by step.
    """

    known: Embeddings
    steps: dict[int, Embeddings]
    parameters: int
    fitting: float
    embedding: dict[int, float]

    def seconds(self, step: int) -> float:
        """Of fitting and of embedding one step."""
        return self.fitting + self.embedding[step]

    def at(self, step: int, detectors: tuple[Detector, ...]) -> Trial:
        """The images of one step under fitted detectors; without any, known images alone."""
        images = self.steps[step]
        unknown = images.select("open") if detectors else None
        return Trial(self.known, images.select("test"), unknown, detectors)


def run_baseline(
    method: type[Baseline], data: BenchData, options: BaselineOptions
) -> BaselineTrial:
    """Fit and embed what is not done yet in `options.folder`.

    Raises:
        LeakError: the method cannot run, or cannot learn from the data.
    """
    trial = _Trial(method, data, options)
    known = trial.known()
    steps = {step: trial.embedded(step, images) for step, images in data.steps.items()}
    facts = trial.facts
    return BaselineTrial(
        known=known,
        steps=steps,
        parameters=int(facts["parameters"]),
        fitting=float(facts["fitting"]),
        embedding={step: float(facts["embedding"][str(step)]) for step in steps},
    )


class _Trial:
    """One trial; the method is built only where something is missing."""

    def __init__(self, method: type[Baseline], data: BenchData, options: BaselineOptions) -> None:
        if options.folder is None:
            raise RunError("a trial needs a folder to keep its embeddings in")
        self.folder = options.folder
        self.folder.mkdir(parents=True, exist_ok=True)
        self.facts: dict[str, Any] = self._read_facts()
        self._method, self._data, self._options = method, data, options
        self._baseline: Baseline | None = None

    def known(self) -> Embeddings:
        """Embeddings of the training and validation folds."""
        parts = [self._data.train, self._data.val]
        found = self._kept("known", parts)
        if found is None:
            # What another fit embedded is no longer of this one.
            self.facts = {}
            self._forget_steps()
            baseline = self._fitted()
            found = concatenate([baseline.embed(part) for part in parts])
            self._keep("known", found)
        return found

    def embedded(self, step: int, images: StepImages) -> Embeddings:
        """Embeddings of the test images and the unknown ones of a step."""
        parts = [images.test, *images.unknown]
        found = self._kept(f"step{step}", parts)
        if found is None or str(step) not in self.facts.get("embedding", {}):
            baseline = self._fitted()
            start = time.perf_counter()
            found = concatenate([_embedded(baseline, part) for part in parts if len(part)])
            self.facts.setdefault("embedding", {})[str(step)] = time.perf_counter() - start
            self._keep(f"step{step}", found)
            self._write_facts()
        return found

    def _fitted(self) -> Baseline:
        if self._baseline is None:
            baseline = self._method(self._data.classes, self._options)
            state = self.folder / STATE
            if self.facts and state.is_file():
                self._baseline = baseline.restore(read_tensors(state)[0])
            else:
                self._baseline = self._fit(baseline)
        return self._baseline

    def _fit(self, baseline: Baseline) -> Baseline:
        start = time.perf_counter()
        baseline.fit(self._data.train, self._data.val)
        self.facts |= {"fitting": time.perf_counter() - start, "parameters": baseline.parameters}
        learned = baseline.state()
        if learned is not None:
            save_tensors(self.folder / STATE, learned)
        self._write_facts()
        return baseline

    def _kept(self, name: str, parts: Sequence[BaselineImages]) -> Embeddings | None:
        path = self.folder / f"{name}.h5"
        if not (path.is_file() and self.facts):
            return None
        found, expected = Embeddings.load(path), columns_of(parts)
        same = all(np.array_equal(getattr(found, key), expected[key]) for key in expected)
        return found if same and found.classes == self._data.classes else None

    def _keep(self, name: str, embeddings: Embeddings) -> None:
        embeddings.save(self.folder / f"{name}.h5")

    def _forget_steps(self) -> None:
        for path in (*self.folder.glob("step*.h5"), self.folder / STATE):
            path.unlink(missing_ok=True)

    def _read_facts(self) -> dict[str, Any]:
        path = self.folder / FACTS
        try:
            found: dict[str, Any] = parse_json(read_text(path))
        except FileNotFoundError:
            return {}
        except ValueError as error:
            raise RunError(f"{path}: is damaged ({error}); delete its folder") from error
        return found

    def _write_facts(self) -> None:
        write_json(self.folder / FACTS, self.facts)


def _embedded(baseline: Baseline, images: BaselineImages) -> Embeddings:
    """Embeddings in float32, of images that keep the names of their table."""
    found = baseline.embed(images)
    return replace(found, run=baseline.name)


IDENTITY = "identity.json"


@dataclass(frozen=True, kw_only=True)
class BenchPlan(Plan):
    """Methods and what all of them share.

    Attributes:
        methods: in the order of the rows.
        options: of every method, but for seed, device and folder.
        on_rows: called after each method with the table so far and with its rows.
    """

    methods: tuple[type[Baseline], ...]
    options: BaselineOptions = field(default_factory=BaselineOptions)
    on_rows: Callable[[BenchResult, tuple[RowResult, ...]], object] = lambda table, rows: None


def methods_named(names: str) -> tuple[type[Baseline], ...]:
    """The methods of a comma-separated list; `all` for every one.

    Raises:
        ConfigError: a name is not among them, or there is none.
    """
    known = {method.name: method for method in BASELINES}
    wanted = [name.strip() for name in names.split(",") if name.strip()]
    if "all" in wanted:
        return BASELINES
    unknown = [name for name in wanted if name not in known]
    if unknown or not wanted:
        raise ConfigError(
            f"--methods {unknown[0] if unknown else names!r}: take some of {', '.join(known)}, "
            "or all"
        )
    return tuple(known[name] for name in dict.fromkeys(wanted))


def run_bench(plan: BenchPlan, data: BenchData) -> BenchResult:
    """Every method of the plan on the same images; a method and seed has `out/METHOD/seedN`.

    A method under a seed that is finished in `plan.out` is not trained again.

    Raises:
        RunError: `plan.out` holds a bench of other images, other epochs or another precision.
    """
    _claim(plan, data)
    facts = _facts(plan, data)
    if plan.pool:
        train_on_actors(plan.pool, _trainings(plan, data))
    jobs = [
        Job(
            tuple(_blank(method.name, step) for step in data.steps),
            partial(_run_method, plan, data, method),
        )
        for method in plan.methods
    ]
    rows = run_jobs(jobs, OURS, lambda rows, new: plan.on_rows(BenchResult(rows, facts), new))
    return BenchResult(rows, facts)


def _blank(method: str, step: int) -> RowResult:
    published = {"macro_auc": PUBLISHED[method][step]} if method in PUBLISHED else {}
    return RowResult(method, step, published=published)


def _trainings(plan: BenchPlan, data: BenchData) -> list[Training]:
    """Every method under every seed."""

    def finish(method: type[Baseline], options: BaselineOptions, device: torch.device) -> None:
        run_baseline(method, data, replace(options, device=device))

    cells = [(method, one) for method in plan.methods for one in _options(plan, method)]
    return [Training(one.folder or plan.out, partial(finish, method, one)) for method, one in cells]


def _options(plan: BenchPlan, method: type[Baseline]) -> list[BaselineOptions]:
    """Of a method under each seed."""
    folder = plan.out / method.name
    return [
        replace(plan.options, seed=seed, device=plan.device, folder=folder / f"seed{seed}")
        for seed in range(plan.seeds)
    ]


def _run_method(plan: BenchPlan, data: BenchData, method: type[Baseline]) -> list[Outcome]:
    trials = [run_baseline(method, data, options) for options in _options(plan, method)]
    detectors, reason = _detectors(trials, plan.kinds)
    return [_outcome(method.name, step, trials, detectors, reason) for step in data.steps]


def _detectors(
    trials: Sequence[BaselineTrial], kinds: tuple[type[Detector], ...]
) -> tuple[list[tuple[Detector, ...]], str]:
    """The fitted detectors of each seed, or why there are none."""
    none: list[tuple[Detector, ...]] = [() for _ in trials]
    if not any(len(one.select("open")) for one in trials[0].steps.values()):
        return none, "no unknown generators: name some with --open"
    try:
        return [tuple(fit_all(kinds, trial.known)) for trial in trials], ""
    except ScoringError as error:
        return none, f"no open figures: {error}"


def _outcome(
    method: str,
    step: int,
    trials: Sequence[BaselineTrial],
    detectors: Sequence[tuple[Detector, ...]],
    reason: str,
) -> Outcome:
    found = evaluated([one.at(step, d) for one, d in zip(trials, detectors, strict=True)])
    closed, opened = found.closed(), found.open()
    figures = {key: one for key, one in closed.metrics.items() if key in METRICS}
    if opened is not None:
        figures |= {
            "open_auroc": opened.pooled["auroc"],
            "open_oscr": opened.pooled["oscr"],
            "open_mean": opened.mean["auroc"],
            "open_worst": opened.worst["auroc"],
        }
    row = replace(
        _blank(method, step),
        reason=reason,
        figures=figures,
        parameters=trials[0].parameters,
        seconds=sum(trial.seconds(step) for trial in trials) / len(trials),
    )
    return Outcome(row, found)


def _claim(plan: BenchPlan, data: BenchData) -> None:
    """Make `out` the folder of this bench, or refuse that of another."""
    out = plan.out
    path = out / IDENTITY
    mine = {
        "images": data.fingerprint,
        "epochs": plan.options.epochs,
        "limit": data.limit,
        "precision": plan.options.precision,
    }
    if not path.is_file():
        out.mkdir(parents=True, exist_ok=True)
        write_json(path, mine)
        return
    try:
        theirs: dict[str, Any] = parse_json(read_text(path))
    except ValueError as error:
        if isinstance(error, RunError):
            raise
        raise RunError(f"{path}: is damaged ({error}); take another --out") from error
    changed = [name for name in mine if theirs.get(name) != mine[name]]
    if changed:
        raise RunError(
            f"{out}: holds a bench with other {' and '.join(changed)}; take another --out"
        )


def _facts(plan: BenchPlan, data: BenchData) -> dict[str, Any]:
    evaluated = next(iter(data.steps.values()))
    return {
        "classes": list(data.classes),
        "images": {
            "train": len(data.train),
            "val": len(data.val),
            "test": len(evaluated.test),
            "open": sum(len(part) for part in evaluated.unknown),
        },
        "steps": list(data.steps),
        "seeds": plan.seeds,
        "epochs": plan.options.epochs,
        "limit": data.limit,
        "precision": plan.options.precision,
        "detector": plan.reported,
    }
