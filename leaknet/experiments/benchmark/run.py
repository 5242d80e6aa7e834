"""Run every method under every seed, judge it, and go on where one cannot run."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float64

from leakcache.errors import LeakError, RunError, ScoringError
from leaknet.baselines.base import Baseline, BaselineOptions
from leaknet.baselines.images import BaselineImages
from leaknet.data.embeddings import Embeddings
from leaknet.detectors import Detector
from leaknet.evaluation.closed_set import concatenate, summarise_closed
from leaknet.evaluation.open_set import Detection, summarise_open
from leaknet.evaluation.summary import Summary
from leaknet.experiments.benchmark.data import BenchData, Judged, columns_of
from leaknet.experiments.benchmark.tables import BenchResult, BenchRow, PairedDifference
from leaknet.experiments.plan import BenchPlan
from leaknet.files import read_tensors, save_tensors, write_text
from leaknet.metrics.closed_set import correct
from leaknet.metrics.paired_tests import sign_flip_p
from leaknet.scoring.fitted_detectors import fit_all

# One method under one seed: fitted once, its embeddings kept, never trained again.
#
# FOLDER/known.h5             training and validation folds
# FOLDER/step0.h5, step1.h5   what was judged at each step
# FOLDER/state.safetensors    what was learned, where the method keeps it
# FOLDER/trial.json           parameters and seconds

STATE = "state.safetensors"
FACTS = "trial.json"


@dataclass(frozen=True)
class BaselineTrial:
    """What one training says.

    Attributes:
        known: embeddings of the training and validation folds.
        steps: embeddings of what is judged, by step.
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


def run_trial(method: type[Baseline], data: BenchData, options: BaselineOptions) -> BaselineTrial:
    """Do what is not done yet in `options.folder`.

    Raises:
        LeakError: the method cannot run, or cannot learn from the data.
    """
    trial = _Trial(method, data, options)
    known = trial.known()
    steps = {step: trial.judged(step, judged) for step, judged in data.steps.items()}
    facts = trial.facts
    return BaselineTrial(
        known=known,
        steps=steps,
        parameters=int(facts["parameters"]),
        fitting=float(facts["fitting"]),
        embedding={step: float(facts["embedding"][str(step)]) for step in steps},
    )


class _Trial:
    """The work of one trial; the method is built only where something is missing."""

    def __init__(self, method: type[Baseline], data: BenchData, options: BaselineOptions) -> None:
        if options.folder is None:
            raise RunError("a trial needs a folder to keep its embeddings in")
        self.folder = options.folder
        self.folder.mkdir(parents=True, exist_ok=True)
        self.facts: dict[str, Any] = self._read_facts()
        self._method, self._data, self._options = method, data, options
        self._peer: Baseline | None = None

    def known(self) -> Embeddings:
        """Embeddings of the training and validation folds."""
        parts = [self._data.train, self._data.val]
        found = self._kept("known", parts)
        if found is None:
            # What was judged by another fit is no longer of this one.
            self.facts = {}
            self._forget_steps()
            peer = self._fitted()
            found = concatenate([peer.embed(part) for part in parts])
            self._keep("known", found)
        return found

    def judged(self, step: int, judged: Judged) -> Embeddings:
        """Embeddings of the test images and the unknown ones of a step."""
        parts = [judged.test, *judged.unknown]
        found = self._kept(f"step{step}", parts)
        if found is None or str(step) not in self.facts.get("embedding", {}):
            peer = self._fitted()
            start = time.perf_counter()
            found = concatenate([_embedded(peer, part) for part in parts if len(part)])
            self.facts.setdefault("embedding", {})[str(step)] = time.perf_counter() - start
            self._keep(f"step{step}", found)
            self._write_facts()
        return found

    def _fitted(self) -> Baseline:
        if self._peer is None:
            peer = self._method(self._data.classes, self._options)
            state = self.folder / STATE
            if self.facts and state.is_file():
                self._peer = peer.restore(read_tensors(state)[0])
            else:
                self._peer = self._fit(peer)
        return self._peer

    def _fit(self, peer: Baseline) -> Baseline:
        start = time.perf_counter()
        peer.fit(self._data.train, self._data.val)
        self.facts |= {"fitting": time.perf_counter() - start, "parameters": peer.parameters}
        learned = peer.state()
        if learned is not None:
            save_tensors(self.folder / STATE, learned)
        self._write_facts()
        return peer

    def _kept(self, name: str, parts: Sequence[BaselineImages]) -> Embeddings | None:
        path = self.folder / f"{name}.h5"
        if not (path.is_file() and self.facts):
            return None
        found, wanted = Embeddings.load(path), columns_of(parts)
        same = all(np.array_equal(getattr(found, key), wanted[key]) for key in wanted)
        return found if same and found.classes == self._data.classes else None

    def _keep(self, name: str, embeddings: Embeddings) -> None:
        embeddings.save(self.folder / f"{name}.h5")

    def _forget_steps(self) -> None:
        for path in (*self.folder.glob("step*.h5"), self.folder / STATE):
            path.unlink(missing_ok=True)

    def _read_facts(self) -> dict[str, Any]:
        path = self.folder / FACTS
        try:
            found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            return {}
        except ValueError as error:
            raise RunError(f"{path}: is damaged ({error}); delete its folder") from error
        return found

    def _write_facts(self) -> None:
        write_text(self.folder / FACTS, json.dumps(self.facts, indent=1) + "\n")


def _embedded(peer: Baseline, images: BaselineImages) -> Embeddings:
    """Embeddings in float32, of images that keep the names of their table."""
    found = peer.embed(images)
    return replace(found, run=peer.name)


# From the trials of a method to the figures of its rows: the same for every method.


def judge_method(
    method: str, trials: Sequence[BaselineTrial], detector: type[Detector]
) -> list[BenchRow]:
    """One row a step; `trials` holds one training a seed.

    Raises:
        ScoringError: the test fold is empty or of one class.
    """
    fitted, reason = _fitted(trials, detector)
    rows = []
    for step in trials[0].steps:
        figures = _closed(trials, step)
        if not reason:
            figures |= _open(trials, step, fitted)
        rows.append(
            BenchRow(
                method=method,
                step=step,
                figures=figures,
                parameters=trials[0].parameters,
                seconds=sum(trial.seconds(step) for trial in trials) / len(trials),
                reason=reason,
            )
        )
    return rows


def _closed(trials: Sequence[BaselineTrial], step: int) -> dict[str, Summary]:
    tests = [trial.steps[step].select("test") for trial in trials]
    found = summarise_closed(tests, [test.logits for test in tests])
    return {name: found.metrics[name] for name in ("top1", "macro_auc")}


def _fitted(
    trials: Sequence[BaselineTrial], detector: type[Detector]
) -> tuple[list[Detector], str]:
    """A detector a seed, or why there is none."""
    if not any(len(one.select("open")) for one in trials[0].steps.values()):
        return [], "no unknown generators: name some with --open"
    try:
        return [fit_all([detector], trial.known)[0] for trial in trials], ""
    except ScoringError as error:
        return [], f"no open figures: {error}"


def _open(
    trials: Sequence[BaselineTrial], step: int, fitted: Sequence[Detector]
) -> dict[str, Summary]:
    found = []
    for trial, detector in zip(trials, fitted, strict=True):
        judged = trial.steps[step]
        val = trial.known.select("val")
        test, unknown = judged.select("test"), judged.select("open")
        found.append([Detection.of(detector, val, test, unknown)])
    summary = summarise_open(fitted[0].name, found)
    return {
        "open_auroc": summary.pooled["auroc"],
        "open_mean": summary.mean["auroc"],
        "open_worst": summary.worst["auroc"],
    }


# How far a method is behind ours, and whether that could be chance: on the same test images.

OURS = "ours"


@dataclass(frozen=True)
class _Answers:
    """Share of seeds that attributed each test image right, and the images' prompt groups."""

    right: Float64[np.ndarray, "image"]
    groups: np.ndarray


def with_behind(
    rows: Sequence[BenchRow], trials: Mapping[str, Sequence[BaselineTrial]]
) -> list[BenchRow]:
    """The rows with what separates each from ours, where both were judged.

    Args:
        rows: of any methods and steps.
        trials: of each method that ran, one a seed.
    """
    if OURS not in trials:
        return list(rows)
    return [_with_behind(row, trials) for row in rows]


def _with_behind(row: BenchRow, trials: Mapping[str, Sequence[BaselineTrial]]) -> BenchRow:
    if row.method == OURS or row.method not in trials:
        return row
    ours, theirs = (_answers(trials[name], row.step) for name in (OURS, row.method))
    gain = ours.right - theirs.right
    return replace(row, behind=PairedDifference(float(gain.mean()), sign_flip_p(gain, ours.groups)))


def _answers(trials: Sequence[BaselineTrial], step: int) -> _Answers:
    tests = [trial.steps[step].select("test") for trial in trials]
    right = [correct(test.logits, test.targets).astype(np.float64) for test in tests]
    return _Answers(np.mean(right, axis=0), tests[0].groups)


IDENTITY = "identity.json"

OnResult = Callable[[BenchResult], object]


def run_bench(
    plan: BenchPlan, data: BenchData, out: Path, on_result: OnResult | None = None
) -> BenchResult:
    """Every method of the plan on the same images.

    A method under a seed that is finished in `out` is not trained again; one that cannot run
    gives rows with the reason.

    Args:
        plan: methods and what they share.
        data: images.
        out: folder; a method and seed has `out/METHOD/seedN`.
        on_result: called after each method with all rows so far.

    Raises:
        RunError: `out` holds a bench of other images, other epochs or another precision.
    """
    _claim(out, plan, data)
    rows: list[BenchRow] = []
    trials: dict[str, list[BaselineTrial]] = {}
    facts = _facts(plan, data)
    for method in plan.methods:
        try:
            done = _trials(method, plan, data, out)
            rows += judge_method(method.name, done, plan.detector)
            trials[method.name] = done
        except LeakError as error:
            rows += _absent(method, data, str(error))
        rows = with_behind(rows, trials)
        if on_result is not None:
            on_result(BenchResult(tuple(rows), facts))
    return BenchResult(tuple(rows), facts)


def _absent(method: type[Baseline], data: BenchData, reason: str) -> list[BenchRow]:
    return [BenchRow(method.name, step, {}, None, None, reason) for step in data.steps]


def _trials(
    method: type[Baseline], plan: BenchPlan, data: BenchData, out: Path
) -> list[BaselineTrial]:
    return [
        run_trial(
            method,
            data,
            BaselineOptions(
                weights=plan.weights,
                epochs=plan.epochs,
                seed=seed,
                device=plan.device,
                precision=plan.precision,
                folder=out / method.name / f"seed{seed}",
            ),
        )
        for seed in range(plan.seeds)
    ]


def _claim(out: Path, plan: BenchPlan, data: BenchData) -> None:
    """Make `out` the folder of this bench, or refuse that of another."""
    path = out / IDENTITY
    mine = {
        "images": data.fingerprint,
        "epochs": plan.epochs,
        "limit": data.limit,
        "precision": plan.precision,
    }
    if not path.is_file():
        out.mkdir(parents=True, exist_ok=True)
        write_text(path, json.dumps(mine, indent=1) + "\n")
        return
    try:
        theirs: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise RunError(f"{path}: is damaged ({error}); take another --out") from error
    changed = [name for name in mine if theirs.get(name) != mine[name]]
    if changed:
        raise RunError(
            f"{out}: holds a bench with other {' and '.join(changed)}; take another --out"
        )


def _facts(plan: BenchPlan, data: BenchData) -> dict[str, Any]:
    judged = next(iter(data.steps.values()))
    return {
        "classes": list(data.classes),
        "images": {
            "train": len(data.train),
            "val": len(data.val),
            "test": len(judged.test),
            "open": sum(len(part) for part in judged.unknown),
        },
        "steps": list(data.steps),
        "seeds": plan.seeds,
        "epochs": plan.epochs,
        "limit": data.limit,
        "precision": plan.precision,
        "detector": plan.detector.name,
    }
