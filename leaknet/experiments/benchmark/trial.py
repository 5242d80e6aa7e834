"""One compared method under one seed: fitted once, its embeddings kept, never trained again.

FOLDER/known.h5             training and validation folds
FOLDER/step0.h5, step1.h5   evaluated images of each step
FOLDER/state.safetensors    what was learned, where the method keeps it
FOLDER/trial.json           parameters and seconds
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from leakcache.errors import RunError
from leakcache.files import parse_json
from leaknet.baselines.base import Baseline, BaselineOptions
from leaknet.baselines.images import BaselineImages
from leaknet.checksums import read_text
from leaknet.data.embeddings import Embeddings, concatenate
from leaknet.detectors import Detector
from leaknet.experiments.benchmark.data import BenchData, StepImages, columns_of
from leaknet.experiments.trial import Trial
from leaknet.files import read_tensors, save_tensors, write_json

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
