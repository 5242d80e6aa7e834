"""Fit a model to a cache, epoch by epoch, into a run folder that can be continued.

At the end of every epoch the folder is consistent: first model.safetensors (if the epoch
was the best by validation macro AUC), then the history, then the checkpoint. Whatever stops
the process, the same command goes on from the last checkpoint; an epoch done twice gives
the same weights, bit for bit on the processor.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from leakcache.device import resolve_device
from leakcache.errors import RunError, TrainingError
from leakcache.progress import Advance
from leakcache.progress import track as show_progress
from leakcache.store.cache import Cache
from leaknet.config import RunConfig
from leaknet.data.split import check_degraded, check_statistics
from leaknet.data.training_data import TrainingData, check_trainable
from leaknet.features.noise import epoch_seed
from leaknet.model.head import PrototypeHead
from leaknet.model.protoleaknet import ProtoLeakNet
from leaknet.model.run_record import CacheIdentity, RunRecord
from leaknet.training.checkpoint import load_checkpoint, save_checkpoint
from leaknet.training.epoch import Stepper, seeded_globally, train_epoch
from leaknet.training.fit_cache import fit_shared
from leaknet.training.history import EpochRecord, append_history, read_history, write_history
from leaknet.training.run_folder import RunFolder
from leaknet.training.validation import keep_if_best, validate

Track = Callable[[str, int, str], AbstractContextManager[Advance]]
OnEpoch = Callable[[EpochRecord], object]


@dataclass(frozen=True)
class TrainResult:
    """How training went.

    Attributes:
        run: the folder.
        epochs: what was measured, one record an epoch, earlier sessions included.
        resumed_after: epochs that an earlier session had done.
    """

    run: RunFolder
    epochs: tuple[EpochRecord, ...]
    resumed_after: int

    @property
    def best(self) -> EpochRecord:
        """The epoch whose weights the run keeps."""
        return [record for record in self.epochs if record.best][-1]


def train(
    config: RunConfig,
    cache: Cache,
    folder: Path,
    *,
    device: str = "auto",
    track: Track = show_progress,
    on_epoch: OnEpoch | None = None,
) -> TrainResult:
    """Train on a cache's training fold, selecting by its validation fold.

    Args:
        config: all settings.
        cache: latents; read into the device's memory whole.
        folder: the run folder, new or of an interrupted run with the same settings.
        device: "auto", or a torch device's name.
        track: shows progress; see `leakcache.progress.track`.
        on_epoch: called with the record of each epoch.

    Raises:
        TrainingError: the cache cannot be learnt from, or the loss is not finite.
        RunError: the folder holds a run with other settings or on another cache.
        ConfigError: settings that do not fit the latents, or no such device.
    """
    where = resolve_device(device)
    data = TrainingData.load(cache, where)
    record = RunRecord(config, cache.classes, data.train.shape, CacheIdentity.of(cache))
    return fit(record, data, folder, device=where, track=track, on_epoch=on_epoch)


def fit(
    record: RunRecord,
    data: TrainingData,
    folder: Path,
    *,
    device: torch.device,
    track: Track = show_progress,
    on_epoch: OnEpoch | None = None,
) -> TrainResult:
    """Train on folds in memory; otherwise as `train`, to which the arguments belong."""
    check_trainable(data, record.classes)
    check_statistics(record.config.features, data.train, data.val)
    if record.config.features.degraded:
        check_degraded(record.config.features, data.train)
    run = _open_folder(folder, record)
    if run.finished:
        done = tuple(run.epochs())
        return TrainResult(run, done, len(done))
    model, companions = _fresh_model(record, data)
    stepper = Stepper(model, device)
    beside = None if companions is None else companions.to(device)
    resumed = _restore(run, stepper)
    left = range(resumed + 1, record.config.train.epochs + 1)
    with track("train", len(left) * len(data.train), "images") as advance:
        for epoch in left:
            if _out_of_patience(run.epochs(), record.config.train.patience):
                break
            done_now = _run_epoch(stepper, data, run, epoch, advance, beside)
            if on_epoch is not None:
                on_epoch(done_now)
    run.close()
    return TrainResult(run, tuple(run.epochs()), resumed)


def _open_folder(folder: Path, record: RunRecord) -> RunFolder:
    run = RunFolder(folder)
    if run.config.is_file():
        changes = run.record().changes(record)
        if changes:
            raise RunError(
                f"{folder} holds a run with other settings ({'; '.join(changes)}): "
                "take another --run, or delete it"
            )
        return run
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RunError(f"{folder} cannot be made a run folder: {error.strerror}") from error
    record.write(folder)
    return run


def _fresh_model(
    record: RunRecord, data: TrainingData
) -> tuple[ProtoLeakNet, Float[Tensor, "image dimension"] | None]:
    """A model to start from, and the embedded statistics that training sees, if any."""
    with seeded_globally(epoch_seed(record.config.train.seed, 0), torch.device("cpu")):
        model = ProtoLeakNet(record.config, record.classes, record.shape, record.cache)
    model.features.fit(data.moments.latent, data.moments.dct)
    if model.companion is None:
        return model, None
    held_out = fit_shared(model.companion, data.train, record.classes)
    if isinstance(model.head, PrototypeHead):
        targets = data.train.targets(record.classes).cpu()
        model.head.start_at(model.companion.centres(held_out, targets))
    return model, held_out


def _restore(run: RunFolder, stepper: Stepper) -> int:
    """Load the checkpoint, or write a first one; the number of epochs already done."""
    if not run.checkpoint.is_file():
        # From here until the last epoch there is a checkpoint: its absence means finished.
        save_checkpoint(run.path, stepper, epoch=0)
        write_history(run.path, [])
        return 0
    done = load_checkpoint(run.path, stepper)
    write_history(run.path, read_history(run.path)[:done])
    return done


def _out_of_patience(epochs: list[EpochRecord], patience: int) -> bool:
    best = max((record.epoch for record in epochs if record.best), default=0)
    return patience > 0 and len(epochs) - best >= patience


def _run_epoch(
    stepper: Stepper,
    data: TrainingData,
    run: RunFolder,
    epoch: int,
    advance: Advance,
    companions: Float[Tensor, "image dimension"] | None,
) -> EpochRecord:
    """Train and validate once, and bring the folder up to date."""
    start = time.perf_counter()
    loss = train_epoch(stepper, data.train, epoch, advance, companions)
    trained = time.perf_counter()
    found = validate(stepper.model, data.val)
    if found is None or not math.isfinite(loss):
        raise TrainingError(
            f"the loss is not finite in epoch {epoch}: lower train.learning_rate (now "
            f"{stepper.config.learning_rate:g}) or take train.precision = fp32"
        )
    record = EpochRecord(
        epoch=epoch,
        loss=loss,
        val_loss=found.loss,
        val_macro_auc=found.macro_auc,
        val_top1=found.top1,
        best=keep_if_best(run.weights, stepper.model, epoch, found),
        temperature=_temperature(stepper.model),
        attention=found.attention,
        seconds=time.perf_counter() - start,
        images_per_second=len(data.train) / (trained - start),
    )
    append_history(run.path, record)
    save_checkpoint(run.path, stepper, epoch)
    return record


def _temperature(model: ProtoLeakNet) -> float | None:
    return model.head.temperature.item() if isinstance(model.head, PrototypeHead) else None
