"""One task under one seed: what is asked, what is trained on, and what comes of it.

A cache is read once; every protocol then selects rows of it. Leaving generators out keeps
their test images alone, as unknown ones: their training and validation images serve nothing.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Bool, Float, Shaped

from leakcache.errors import CacheBusy, LeakError
from leakcache.processes import RayPool, keep_freed_memory
from leakcache.progress import track
from leakcache.store.cache import Cache
from leakcache.store.manifest import images_hash
from leaknet.config import RunConfig, config_to_table
from leaknet.data.columns import ImageColumns, TrainingData, load_fold
from leaknet.data.embeddings import Embeddings
from leaknet.detectors import Detector, DiagonalMahalanobis, GlobalKDE
from leaknet.metrics.detection import Detection, Evaluated
from leaknet.model.protoleaknet import ProtoLeakNet
from leaknet.model.run_record import CacheIdentity, RunRecord
from leaknet.scoring.families import Families, learn_families, read_families
from leaknet.scoring.run_embeddings import CLOSED_FOLDS, known_embeddings, unknown_embeddings
from leaknet.scoring.score_run import evaluate_run, fit_run
from leaknet.training.run_folder import RunFolder
from leaknet.training.train import fit

CPU = torch.device("cpu")


@dataclass(frozen=True, kw_only=True)
class Plan:
    """Options that all experiments share; each adds its own in a subclass.

    Attributes:
        out: folder of the results and runs.
        seeds: trainings of each method on each task, 1 or more.
        kinds: open-set detectors, the reported one first; 1 or more.
        device: where to compute.
        force: leave open images out that are also closed ones, instead of refusing.
        pool: actors that train in place of this process; None for none.
    """

    out: Path
    seeds: int = 1
    kinds: tuple[type[Detector], ...] = (GlobalKDE,)
    device: torch.device = CPU
    force: bool = False
    pool: RayPool | None = None

    @property
    def reported(self) -> str:
        """Name of the detector that figures are given for."""
        return self.kinds[0].name


def seeded(config: RunConfig, seeds: int) -> tuple[RunConfig, ...]:
    """The settings under each seed, counted up from their own."""
    first = config.train.seed
    return tuple(
        replace(config, train=replace(config.train, seed=first + number)) for number in range(seeds)
    )


@dataclass(frozen=True)
class Task:
    """One training and what it is evaluated on.

    Attributes:
        classes: the known generators, in the order of the logits.
        data: what training sees.
        test: images of known generators to evaluate.
        unknown: generators that are not trained on; empty for none.
        cache: identity of the training data, by which a run folder recognises it.
    """

    classes: tuple[str, ...]
    data: TrainingData
    test: ImageColumns
    unknown: tuple[ImageColumns, ...]
    cache: CacheIdentity

    @property
    def folds(self) -> tuple[ImageColumns, ...]:
        """The closed folds, in the order of `CLOSED_FOLDS`."""
        return (self.data.train, self.data.val, self.test)


@dataclass(frozen=True)
class ClosedSet:
    """The closed folds of a cache in memory, of which tasks are made."""

    cache: Cache
    train: ImageColumns
    val: ImageColumns
    test: ImageColumns

    @classmethod
    def load(cls, cache: Cache, config: RunConfig) -> ClosedSet:
        """Read what such a model reads of the closed folds; raises as `load_columns`."""
        names = {fold: config.columns(training=fold == "train") for fold in CLOSED_FOLDS}
        return cls(cache, *(load_fold(cache, fold, names[fold]) for fold in CLOSED_FOLDS))

    def whole(self, unknown: Sequence[ImageColumns] = ()) -> Task:
        """Train on all closed generators; those of other caches are unknown."""
        data = TrainingData(self.train, self.val, self.cache.moments("train"))
        identity = CacheIdentity.of(self.cache)
        return Task(self.cache.classes, data, self.test, tuple(unknown), identity)

    def without(self, left: Sequence[str]) -> Task:
        """Train on all but some generators, whose test images are then the unknown ones."""
        kept = tuple(name for name in self.cache.classes if name not in left)
        train, val, test = (
            rows_of(split, np.isin(split.labels, kept))
            for split in (self.train, self.val, self.test)
        )
        data = TrainingData(train, val, self.cache.moments("train", labels=kept))
        unknown = rows_of(self.test, np.isin(self.test.labels, left))
        unknown = replace(unknown, folds=np.full(len(unknown), "open"))
        return Task(kept, data, test, (unknown,), self._identity(train, val))

    def shuffled(self, seed: int) -> Task:
        """Train on labels that were permuted within each fold; the test fold keeps its own."""
        rng = np.random.default_rng(seed)
        train = relabelled(self.train, rng.permutation(self.train.labels))
        val = relabelled(self.val, rng.permutation(self.val.labels))
        data = TrainingData(train, val, self.cache.moments("train"))
        return Task(self.cache.classes, data, self.test, (), self._identity(train, val))

    def _identity(self, *folds: ImageColumns) -> CacheIdentity:
        return replace(CacheIdentity.of(self.cache), training_sha256=_images(folds))


def rows_of(split: ImageColumns, mask: Bool[np.ndarray, "image"]) -> ImageColumns:
    """The images that a mask selects."""
    return split.take(np.flatnonzero(mask))


def relabelled(split: ImageColumns, labels: Shaped[np.ndarray, "image"]) -> ImageColumns:
    """The same images under other labels."""
    return replace(split, labels=labels)


@dataclass(frozen=True)
class Trial:
    """Embeddings and fitted detectors of one method on one task under one seed.

    Attributes:
        known: the closed folds, of which detectors learn from `train` and `val`.
        test: the known images that are evaluated.
        unknown: the unknown generators; None where there are none.
        detectors: fitted ones, in the order of the plan.
        families: of the known generators; None for a method without.
    """

    known: Embeddings
    test: Embeddings
    unknown: Embeddings | None
    detectors: tuple[Detector, ...]
    families: Families | None = field(default=None, kw_only=True)

    @property
    def val(self) -> Embeddings:
        """The known images on which choices were made."""
        return self.known.select("val")

    def detections(self) -> dict[str, Detection]:
        """By detector, known against unknown; empty without unknown generators."""
        if self.unknown is None:
            return {}
        return {d.name: Detection.of(d, self.val, self.test, self.unknown) for d in self.detectors}


@dataclass(frozen=True)
class RunTrial(Trial):
    """A finished run folder.

    Attributes:
        run: the folder.
        mahalanobis: names the generator, beside the logits.
    """

    run: RunFolder
    mahalanobis: DiagonalMahalanobis

    @property
    def mahalanobis_scores(self) -> Float[np.ndarray, "test class"]:
        """Class scores of the test fold by Mahalanobis distance."""
        return self.mahalanobis.class_scores(self.test)


def evaluated(
    trials: Sequence[Trial], scores: Sequence[Float[np.ndarray, "test class"]] | None = None
) -> Evaluated:
    """The trials of all seeds under their first detector, by their logits or other scores."""
    return Evaluated(
        tuple(trial.test for trial in trials),
        tuple(trial.test.logits for trial in trials) if scores is None else tuple(scores),
        tuple(one for trial in trials for one in list(trial.detections().values())[:1]),
    )


def run_trials(
    task: Task,
    configs: Sequence[RunConfig],
    folders: Sequence[Path],
    plan: Plan,
    *,
    kinds: tuple[type[Detector], ...] | None = None,
    score: bool = False,
    on_run: Callable[[int], object] = lambda number: None,
) -> list[RunTrial]:
    """Finish one run per seed; finished runs are not trained again.

    Args:
        task: data.
        configs: settings under each seed.
        folders: of the runs, in the same order.
        plan: detectors, device, and whether unknown images that are known ones are left out.
        kinds: detectors in place of those of the plan.
        score: write metrics.json and scores.csv as `leak score` does.
        on_run: called with the number of each run before it starts.

    Raises:
        RunError: a folder holds a run with other settings or on other data.
        TrainingError: the data cannot be learnt from.
        ScoringError: an image is both known and unknown, or a detector cannot be fitted.
    """
    kinds, trials = plan.kinds if kinds is None else kinds, []
    for number, (config, folder) in enumerate(zip(configs, folders, strict=True)):
        on_run(number)
        trials.append(_run_trial(task, config, folder, plan, kinds, score))
    return trials


def _run_trial(
    task: Task,
    config: RunConfig,
    folder: Path,
    plan: Plan,
    kinds: tuple[type[Detector], ...],
    score: bool,
) -> RunTrial:
    folder.parent.mkdir(parents=True, exist_ok=True)
    device, data = plan.device, task.data
    record = RunRecord(config, task.classes, data.train.shape, task.cache)
    data = replace(data, train=data.train.to(device), val=data.val.to(device))
    run = fit(record, data, folder, device=device).run
    model = run.load_model(device)
    known, unknown = known_embeddings(run, model, task.folds), None
    if task.unknown:
        unknown = unknown_embeddings(run, model, task.unknown, known, force=plan.force)
    scorers = fit_run(run, known, kinds)
    if score:
        evaluate_run(run, model, known, unknown, scorers)
    return RunTrial(
        known,
        known.select("test"),
        unknown,
        scorers.detectors,
        run,
        scorers.naming,
        families=_families(folder, model, known),
    )


def _families(folder: Path, model: ProtoLeakNet, known: Embeddings) -> Families | None:
    """Families of the known generators, learnt where the run has none yet; None without any."""
    if read_families(folder, known.classes) is None:
        learn_families(folder, model, known)
    found = read_families(folder, known.classes)
    return found if found and len(found.names) < len(known.classes) else None


def trainings(
    task: Callable[[], Task], configs: Sequence[RunConfig], folders: Sequence[Path], plan: Plan
) -> list[Training]:
    """The trainings of `run_trials`; `task` is called where one of them runs."""

    def finish(config: RunConfig, folder: Path, device: torch.device) -> None:
        run_trials(task(), [config], [folder], replace(mine, device=device), kinds=())

    mine = Plan(out=plan.out, force=plan.force)
    pairs = zip(configs, folders, strict=True)
    return [Training(folder, partial(finish, config, folder)) for config, folder in pairs]


def run_folders(config: RunConfig, seeds: int, task: Task, parent: Path) -> list[Path]:
    """Folders of the runs of some settings, one a seed, named by what the runs are.

    Equal settings on equal data have equal folders in all tables, so they are trained once.
    """
    name = run_hash(config, task)
    first = config.train.seed
    return [parent / f"{name}-seed{first + number}" for number in range(seeds)]


def unfinished(folders: Sequence[Path]) -> int:
    """How many runs must still be trained, or trained further."""
    return sum(not RunFolder(folder).finished for folder in folders)


def run_hash(config: RunConfig, task: Task) -> str:
    """Twelve hexadecimal digits over the settings without the seed, the encoding and the images."""
    table = config_to_table(config)
    del table["train"]["seed"]
    content = {
        "config": table,
        "encoding": task.cache.encoding.fingerprint,
        "classes": task.classes,
        "images": _images((task.data.train, task.data.val)),
    }
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:12]


def _images(folds: Sequence[ImageColumns]) -> str:
    tables = [(one.hashes, one.labels, one.groups, one.folds) for one in folds]
    rows = (zip(*(column.tolist() for column in table), strict=True) for table in tables)
    return images_hash(row for of_fold in rows for row in of_fold)


WAITS, WAIT = 240, 5.0
"""How often an actor tries again while others write to the cache, and the seconds between."""


@dataclass(frozen=True)
class Training:
    """One method on one task under one seed.

    A training ends with files in a folder of its own, which the experiment takes over instead of
    training again. So the table is the same whoever trained.

    Attributes:
        folder: that it fills, on a disk which all actors share.
        run: finishes it on a device.
    """

    folder: Path
    run: Callable[[torch.device], object]


def train_on_actors(pool: RayPool, trainings: Sequence[Training]) -> None:
    """Finish trainings on actors, in any order; a killed one begins again where it had stopped.

    One that fails is left to the experiment, which then fails in the same way and reports it.

    Raises:
        ConfigError: Ray is not installed, or there is no cluster at the address.
        LeakError: actors died over one training again and again.
    """
    distinct = {training.folder: training for training in trainings}
    places = range(len(distinct))
    with track("training", len(distinct), "runs") as advance:
        for _ in pool.map(_Trainer(tuple(distinct.values())), places):
            advance(1)


@dataclass(frozen=True)
class _Trainer:
    trainings: tuple[Training, ...]

    def __call__(self, device: str) -> Callable[[int], bool]:
        keep_freed_memory()

        def train(place: int) -> bool:
            try:
                # Another actor may be deriving the same columns.
                for _ in range(WAITS):
                    with suppress(CacheBusy):
                        self.trainings[place].run(torch.device(device))
                        return True
                    time.sleep(WAIT)
            # torch reports what a model or a machine cannot do as a RuntimeError.
            except (LeakError, RuntimeError, MemoryError):
                pass
            return False

        return train
