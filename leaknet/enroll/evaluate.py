"""Does enrolment work? Leave one generator out of training, enrol it, ask the test fold.

For each generator a network is trained without it, on the same folds and settings. It is then
enrolled from a few images of its training fold, several times over with other images, and the
grown model names the test images of all generators. What that costs the others is their loss of
top-1 accuracy; how far it is from training is seen beside a run that was trained with all.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from leakcache.errors import DataError
from leakcache.progress import track
from leakcache.store.cache import Cache
from leaknet.config import RunConfig
from leaknet.data.embeddings import Embeddings
from leaknet.data.split import SplitLatents
from leaknet.enroll.enroll import learn, recall
from leaknet.enroll.prototypes import reclassified
from leaknet.experiments.task import ClosedSet, rows_of
from leaknet.metrics import closed_values
from leaknet.model.inference import embed
from leaknet.model.protoleaknet import ProtoLeakNet
from leaknet.model.run_record import RunRecord
from leaknet.training.train import fit

SHOTS = (5, 10, 50)
DRAWS = 5


@dataclass(frozen=True)
class LeftOut:
    """One generator, enrolled from so many images; means over the draws of those images.

    Attributes:
        generator: that was left out of training.
        shots: images it was enrolled from.
        found: share of its test images that are given its name.
        found_sd: standard deviation of that over draws.
        before: top-1 on the test images of the others, without it among the answers.
        after: the same with it.
        balanced: mean recall over all generators, after.
    """

    generator: str
    shots: int
    found: float
    found_sd: float
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
        config: of the run whose enrolment is in question.
        cache: its closed cache.
        folder: where the runs are kept that are trained for this; a finished one is used again.
        shots: numbers of images to enrol from.
        draws: how often other images are drawn.
        device: where to compute; the processor, if None.

    Raises:
        DataError: a generator has fewer training images than the greatest number of shots.
        RunError: a folder holds a run with other settings or on other data.
        TrainingError: the data cannot be learnt from.
    """
    data, where = ClosedSet.load(cache), device or torch.device("cpu")
    rows = []
    for generator in cache.classes:
        left = _Left.train(config, data, generator, folder / generator, where)
        rows += [left.enrol(count, draws) for count in shots]
    return rows


def summary(rows: Sequence[LeftOut]) -> list[dict[str, Any]]:
    """Means over generators, one entry per number of shots; `loss` is before minus after."""
    found = []
    for shots in sorted({row.shots for row in rows}):
        table = [row for row in rows if row.shots == shots]
        means = {
            key: float(np.mean([getattr(row, key) for row in table]))
            for key in ("found", "before", "after", "balanced")
        }
        means["loss"] = means["before"] - means["after"]
        found.append({"shots": shots, **means})
    return found


@dataclass(frozen=True)
class _Left:
    """A network that has never seen one generator, that generator's images, and all others'."""

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
    ) -> _Left:
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
            _embed(model, task.data.val),
            _embed(model, task.test),
        )

    def enrol(self, shots: int, draws: int) -> LeftOut:
        results = np.array([self._draw(shots, seed) for seed in range(draws)])
        before = float(closed_values(self.others.logits, self.others.targets)["top1"][0])
        found, after, balanced = results.mean(axis=0).tolist()
        spread = float(results[:, 0].std(ddof=1)) if draws > 1 else float("nan")
        return LeftOut(self.generator, shots, found, spread, before, after, balanced)

    def _draw(self, shots: int, seed: int) -> tuple[float, float, float]:
        """Recall of the new class, top-1 of the others, and mean recall, for one draw."""
        if shots > len(self.pool):
            raise DataError(
                f"{self.generator} has {len(self.pool)} training images: take fewer --shots than "
                f"{shots}"
            )
        chosen = np.random.default_rng(seed).choice(len(self.pool), shots, replace=False)
        grown, _ = learn(self.model, self.generator, self.pool.take(chosen), self.val)
        own, others = (reclassified(grown, e) for e in (self.own, self.others))
        recalls = [recall(others.take(others.targets == c)) for c in np.unique(others.targets)]
        return recall(own), recall(others), float(np.mean([recall(own), *recalls]))


def _embed(model: ProtoLeakNet, split: SplitLatents) -> Embeddings:
    with track("embedding", len(split), "images") as advance:
        return embed(model, split, advance=advance)
