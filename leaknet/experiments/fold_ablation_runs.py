"""Where the runs of a row lie, and bringing them to their end.

A run's folder is named by what the run is: a hash over its settings, how its images were
encoded, and which images it learnt from and was chosen by. So a row that occurs in two tables,
or under two names, is trained once, and an interrupted one goes on.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from leakcache.store.manifest import images_hash
from leaknet.config import RunConfig, config_to_table
from leaknet.data.split import SplitLatents
from leaknet.detectors import Detector
from leaknet.experiments.plan import Plan
from leaknet.experiments.task import Task
from leaknet.experiments.trial import Trial, run_trial
from leaknet.training.run_folder import RunFolder


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
