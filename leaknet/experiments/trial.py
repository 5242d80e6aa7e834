"""One task under one seed: train or go on, embed, fit the scorers."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from leakcache.store.manifest import images_hash
from leaknet.config import RunConfig, config_to_table
from leaknet.data.embeddings import Embeddings
from leaknet.data.split import SplitLatents
from leaknet.detectors import Detector
from leaknet.experiments.plan import Plan
from leaknet.experiments.task import Task
from leaknet.model.run_record import RunRecord
from leaknet.scoring.run_embeddings import known_embeddings, unknown_embeddings
from leaknet.scoring.score_run import Scorers, fit_run, judge_run
from leaknet.training.run_folder import RunFolder
from leaknet.training.train import fit


@dataclass(frozen=True)
class Trial:
    """A finished run and what it says of its task.

    Attributes:
        run: its folder.
        known: embeddings of the closed folds.
        unknown: embeddings of the unknown generators, None where there are none.
        scorers: fitted on the training and validation folds.
    """

    run: RunFolder
    known: Embeddings
    unknown: Embeddings | None
    scorers: Scorers

    @property
    def test(self) -> Embeddings:
        """The known images that are judged."""
        return self.known.select("test")

    @property
    def val(self) -> Embeddings:
        """The known images on which choices were made."""
        return self.known.select("val")


def run_trial(
    task: Task,
    config: RunConfig,
    folder: Path,
    kinds: tuple[type[Detector], ...],
    device: torch.device,
    *,
    judge: bool = False,
    force: bool = False,
) -> Trial:
    """Bring one run to its end; a finished run is not trained again.

    Args:
        task: data.
        config: settings, the seed among them.
        folder: of the run.
        kinds: detectors to fit.
        device: where to compute.
        judge: write metrics.json and scores.csv as `leak score` does.
        force: leave unknown images out that are also known ones.

    Raises:
        RunError: the folder holds a run with other settings or on other data.
        TrainingError: the data cannot be learnt from.
        ScoringError: an image is both known and unknown, or a detector cannot be fitted.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    record = RunRecord(config, task.classes, task.data.train.shape, task.cache)
    data = replace(task.data, train=task.data.train.to(device), val=task.data.val.to(device))
    run = fit(record, data, folder, device=device).run
    model = run.load_model(device)
    known = known_embeddings(run, model, task.folds)
    unknown = None
    if task.unknown:
        unknown = unknown_embeddings(run, model, task.unknown, known, force=force)
    scorers = fit_run(run, known, kinds)
    if judge:
        judge_run(run, model, known, unknown, scorers)
    return Trial(run, known, unknown, scorers)


# Where the runs of a row lie, and bringing them to their end.
#
# A run's folder is named by what the run is: a hash over its settings, how its images were
# encoded, and which images it learnt from and was chosen by. So a row that occurs in two tables,
# or under two names, is trained once, and an interrupted one goes on.


@dataclass(frozen=True)
class RowRuns:
    """The runs of one row, one a seed.

    Attributes:
        configs: settings under each seed.
        folders: in the same order.
    """

    configs: tuple[RunConfig, ...]
    folders: tuple[Path, ...]

    @classmethod
    def of(cls, config: RunConfig, seeds: int, task: Task, parent: Path) -> RowRuns:
        """The runs of some settings, seeds counted up from theirs; nothing is written."""
        configs = Plan(config, seeds, ()).configs
        name = run_hash(config, task)
        return cls(
            tuple(configs), tuple(parent / f"{name}-seed{one.train.seed}" for one in configs)
        )

    @property
    def unfinished(self) -> int:
        """How many must still be trained, or trained further."""
        return sum(not RunFolder(folder).finished for folder in self.folders)

    def trials(
        self,
        task: Task,
        kinds: tuple[type[Detector], ...],
        device: torch.device,
        *,
        force: bool,
        on_run: Callable[[int], object],
    ) -> list[Trial]:
        """Train what is not trained, embed what is not embedded; raises as `run_trial`."""
        trials = []
        for number, (config, folder) in enumerate(zip(self.configs, self.folders, strict=True)):
            on_run(number)
            trials.append(run_trial(task, config, folder, kinds, device, force=force))
        return trials


def run_hash(config: RunConfig, task: Task) -> str:
    """Twelve hexadecimal digits that tell runs apart which differ in more than their seed."""
    table = config_to_table(config)
    del table["train"]["seed"]
    content = {
        "config": table,
        "encoding": task.cache.encoding.fingerprint,
        "classes": task.classes,
        "images": _images((task.data.train, task.data.val)),
    }
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:12]


def _images(folds: Sequence[SplitLatents]) -> str:
    return images_hash(
        (str(digest), str(label), str(group), str(fold))
        for split in folds
        for digest, label, group, fold in zip(
            split.hashes, split.labels, split.groups, split.folds, strict=True
        )
    )
