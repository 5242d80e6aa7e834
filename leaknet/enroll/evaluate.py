"""Evaluates enrolment: leaves one generator out of training, enrols it, scores the test fold.

For each generator a model is trained without it, with the same folds and settings. The generator
is then enrolled from a few of its training images, several times with other images, and the
model with the new class classifies the test images of all generators.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from leakcache.progress import track
from leakcache.store.cache import Cache
from leaknet.config import RunConfig
from leaknet.data.columns import ImageColumns
from leaknet.data.embeddings import Embeddings
from leaknet.enroll.enroll import recall
from leaknet.enroll.new_class import fit_offset, reclassified, with_class
from leaknet.experiments.trial import ClosedSet, rows_of
from leaknet.metrics import closed_values
from leaknet.model.inference import embed
from leaknet.model.protoleaknet import ProtoLeakNet
from leaknet.model.run_record import RunRecord
from leaknet.training.run_folder import with_held_out
from leaknet.training.train import fit

SHOTS = (1, 5, 10, 50)
DRAWS = 5


@dataclass(frozen=True)
class LeftOut:
    """One left-out generator and number of shots; means over random draws of the shots.

    Attributes:
        generator: left out of training, then enrolled.
        shots: number of images it was enrolled from.
        recall: fraction of its test images that the model names right.
        recall_sd: sample standard deviation of the recall over draws.
        before: top-1 on the others' test images without the new class.
        after: the same with the new class.
        balanced: mean recall over all generators, after.
    """

    generator: str
    shots: int
    recall: float
    recall_sd: float
    before: float
    after: float
    balanced: float


def evaluate_enrolment(
    config: RunConfig,
    cache: Cache,
    folder: Path,
    *,
    shots: Sequence[int] = SHOTS,
    draws: int = DRAWS,
    device: torch.device | None = None,
) -> list[LeftOut]:
    """Leave each generator out once; one row per generator and number of shots.

    Args:
        config: of the run to evaluate.
        cache: its closed cache.
        folder: of the runs trained here; finished runs are reused.
        shots: numbers of images to enrol from; those that a generator does not have are left out.
        draws: random draws per number of shots.
        device: where to compute; the CPU if None.

    Raises:
        RunError: a folder contains a run with other settings or data.
        TrainingError: the data cannot be trained on.
    """
    data, device = ClosedSet.load(cache, config), device or torch.device("cpu")
    rows = []
    for generator in cache.classes:
        left = _LeaveOneOut.train(config, data, generator, folder / generator, device)
        rows += [left.enrol(count, draws) for count in shots if count <= len(left.pool)]
    return rows


def summary(rows: Sequence[LeftOut]) -> list[dict[str, Any]]:
    """Means over generators, one entry per number of shots; `loss` is before minus after."""
    result = []
    for shots in sorted({row.shots for row in rows}):
        table = [row for row in rows if row.shots == shots]
        means = {
            key: float(np.mean([getattr(row, key) for row in table]))
            for key in ("recall", "before", "after", "balanced")
        }
        means["loss"] = means["before"] - means["after"]
        result.append({"shots": shots, **means})
    return result


@dataclass(frozen=True)
class _LeaveOneOut:
    """A model trained without one generator, and the embeddings of its and of all other images."""

    generator: str
    model: ProtoLeakNet
    pool: Embeddings
    own: Embeddings
    val: Embeddings
    others: Embeddings

    @classmethod
    def train(
        cls,
        config: RunConfig,
        data: ClosedSet,
        generator: str,
        folder: Path,
        device: torch.device,
    ) -> _LeaveOneOut:
        task = data.without((generator,))
        folder.parent.mkdir(parents=True, exist_ok=True)
        record = RunRecord(config, task.classes, task.data.train.shape, task.cache)
        inputs = replace(task.data, train=task.data.train.to(device), val=task.data.val.to(device))
        model = fit(record, inputs, folder, device=device).run.load_model(device)
        pool = rows_of(data.train, data.train.labels == generator)
        return cls(
            generator,
            model,
            _embed(model, replace(pool, folds=np.full(len(pool), "open"))),
            _embed(model, task.unknown[0]),
            _embed(model, with_held_out(folder, task.data.val)),
            _embed(model, task.test),
        )

    def enrol(self, shots: int, draws: int) -> LeftOut:
        results = np.array([self._draw(shots, seed) for seed in range(draws)])
        before = float(closed_values(self.others.logits, self.others.targets)["top1"][0])
        recall_mean, after, balanced = results.mean(axis=0).tolist()
        spread = float(results[:, 0].std(ddof=1)) if draws > 1 else float("nan")
        return LeftOut(self.generator, shots, recall_mean, spread, before, after, balanced)

    def _draw(self, shots: int, seed: int) -> tuple[float, float, float]:
        """Recall of the new class, top-1 of the others, and mean recall, for one draw."""
        chosen = np.random.default_rng(seed).choice(len(self.pool), shots, replace=False)
        vectors = self.pool.vectors[chosen]
        offset = fit_offset(self.model, vectors, self.val)
        grown = with_class(self.model, self.generator, vectors, offset)
        own, others = (reclassified(grown, e) for e in (self.own, self.others))
        recalls = [recall(others.take(others.targets == c)) for c in np.unique(others.targets)]
        return recall(own), recall(others), float(np.mean([recall(own), *recalls]))


def _embed(model: ProtoLeakNet, split: ImageColumns) -> Embeddings:
    with track("embedding", len(split), "images") as advance:
        return embed(model, split, advance=advance)
