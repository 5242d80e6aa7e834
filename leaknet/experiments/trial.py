"""One task under one seed: train or go on, embed, fit the scorers."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import torch

from leaknet.config import RunConfig
from leaknet.data.embeddings import Embeddings
from leaknet.detectors import Detector
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
