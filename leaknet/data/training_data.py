"""What training learns from: two folds, and whether they will do."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from leakcache.errors import TrainingError
from leakcache.store.cache import AT_ONCE, Cache, LatentMoments
from leaknet.config import Z0, RunConfig
from leaknet.data.columns import ImageColumns, load_fold


@dataclass(frozen=True)
class TrainingData:
    """The training and validation folds, and the moments of the first.

    Attributes:
        train: images to learn from.
        val: images by which the best epoch is chosen; the statistics branch learns from them too.
        moments: of the clean training latents; all that standardisation needs.
    """

    train: ImageColumns
    val: ImageColumns
    moments: LatentMoments

    @classmethod
    def load(cls, cache: Cache, config: RunConfig, device: torch.device) -> TrainingData:
        """Read the columns of both folds that a model of this configuration reads.

        Raises:
            CacheIncomplete: the cache lacks one of them.
        """
        train = load_fold(cache, "train", config.columns(), device)
        val = load_fold(cache, "val", config.columns(training=False), device)
        return cls(train, val, cache.moments("train"))


def check_trainable(data: TrainingData, config: RunConfig, classes: tuple[str, ...]) -> None:
    """Refuse data that cannot be learnt from, in one line.

    Raises:
        CacheIncomplete: a column that the model reads is missing.
        TrainingError: fewer than two classes, a class without training images, too little
            validation data to choose an epoch by, or latents that are not finite.
    """
    data.train.require(config.columns())
    data.val.require(config.columns(training=False))
    if len(classes) < 2:
        raise TrainingError(
            f"the cache holds {len(classes)} generator(s) in the closed set: attribution needs two"
        )
    empty = sorted(set(classes) - set(data.train.labels.tolist()))
    if empty:
        raise TrainingError(
            f"no training images of {', '.join(empty)}: give them some, or leave them out"
        )
    if len(set(data.val.labels.tolist())) < 2:
        raise TrainingError(
            f"the validation fold holds {len(data.val)} images of fewer than two generators: "
            "the best epoch cannot be chosen; change the split"
        )
    for split in (data.train, data.val):
        if Z0 not in split:
            continue
        for batch in split.batches(AT_ONCE):
            bad = torch.nonzero(~torch.isfinite(batch.z0).flatten(1).all(dim=1))
            if len(bad):
                path = batch.paths[int(bad[0])]
                raise TrainingError(f"the latent of {path} is not finite: run `leak cache verify`")
