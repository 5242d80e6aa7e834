"""Fit a model to a cache, branch by branch and epoch by epoch, into a run folder.

At the end of every epoch the folder is consistent: first model.safetensors (if the epoch was the
branch's best by validation macro AUC), then the history, then the checkpoint. After an interruption
the same command continues from the last checkpoint; an epoch done twice gives the same weights,
bit for bit on the CPU.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path

import torch

from leakcache.device import resolve_device
from leakcache.errors import RunError, TrainingError
from leakcache.files import locked
from leakcache.progress import Advance, Track
from leakcache.progress import track as show_progress
from leakcache.store.cache import Cache
from leaknet.config import RunConfig
from leaknet.data.columns import ImageColumns, TrainingData, check_trainable
from leaknet.model.branch import Branch, PrototypeHead
from leaknet.model.protoleaknet import ProtoLeakNet
from leaknet.model.run_record import CacheIdentity, RunRecord
from leaknet.training.epoch import Stepper, TrainingImages, keep_if_best, train_epoch, validate
from leaknet.training.fuse import fuse_branches
from leaknet.training.parallel import Parallel, from_first
from leaknet.training.run_folder import (
    EpochRecord,
    RunFolder,
    append_history,
    checkpointed,
    load_checkpoint,
    read_history,
    save_checkpoint,
    write_held_out,
    write_history,
)

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
    def best(self) -> dict[str, EpochRecord]:
        """By branch, the epoch whose weights the run keeps."""
        return {record.branch: record for record in self.epochs if record.best}


def train(
    config: RunConfig,
    cache: Cache,
    folder: Path,
    *,
    device: str = "auto",
    track: Track = show_progress,
    on_epoch: OnEpoch | None = None,
    parallel: Parallel | None = None,
) -> TrainResult:
    """Train on a cache's training fold, selecting by its validation fold.

    Args:
        config: all settings.
        cache: the columns that the model reads are loaded into the device's memory whole.
        folder: the run folder, new or of an interrupted run with the same settings.
        device: "auto", or a torch device's name.
        track: shows progress; see `leakcache.progress.track`.
        on_epoch: called with the record of each epoch.
        parallel: processes that train this model together, each called with the same arguments;
            the first alone writes the folder.

    Raises:
        CacheIncomplete: the cache lacks a column that the model reads.
        TrainingError: the cache cannot be learnt from, or the loss is not finite.
        RunError: the folder holds a run with other settings or on another cache.
        CacheError: another process trains into the folder.
        ConfigError: settings that do not fit the latents, or no such device.
    """
    where = resolve_device(device)
    data = TrainingData.load(cache, config, where)
    record = RunRecord(config, cache.classes, data.train.shape, CacheIdentity.of(cache))
    return fit(
        record, data, folder, device=where, track=track, on_epoch=on_epoch, parallel=parallel
    )


def fit(
    record: RunRecord,
    data: TrainingData,
    folder: Path,
    *,
    device: torch.device,
    track: Track = show_progress,
    on_epoch: OnEpoch | None = None,
    parallel: Parallel | None = None,
) -> TrainResult:
    """Train on folds in memory; otherwise as `train`, to which the arguments belong."""
    check_trainable(data, record.config, record.classes)
    _make(folder)
    first = parallel is None or parallel.rank == 0
    with locked(folder) if first else nullcontext():
        return _fit(folder, record, data, device, track, on_epoch, parallel)


def _fit(
    folder: Path,
    record: RunRecord,
    data: TrainingData,
    device: torch.device,
    track: Track,
    on_epoch: OnEpoch | None,
    parallel: Parallel | None,
) -> TrainResult:
    run = RunFolder(folder)
    if from_first(parallel, lambda: _open_folder(folder, record).finished):
        done = tuple(run.epochs())
        return TrainResult(run, done, len(done))
    model = ProtoLeakNet(record.config, record.classes, record.shape, record.cache)
    resumed = from_first(parallel, lambda: _resume(run, model))
    steps = from_first(parallel, lambda: _remaining(run, model))
    with track("train", sum(len(left) for _, left in steps) * len(data.train), "images") as advance:
        for name, left in steps:
            branch = model.branches[name]
            _train_branch(model, branch, left, data, run, device, advance, on_epoch, parallel)
    from_first(parallel, lambda: _finish(model, data, run, device, track))
    return TrainResult(run, tuple(run.epochs()), resumed)


def _finish(
    model: ProtoLeakNet, data: TrainingData, run: RunFolder, device: torch.device, track: Track
) -> None:
    if len(model.branches) > 1:
        fuse_branches(model, data, run, device, track)
    run.close()


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
    record.write(folder)
    return run


def _make(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RunError(f"{folder} cannot be made a run folder: {error.strerror}") from error


def _resume(run: RunFolder, model: ProtoLeakNet) -> int:
    """Cut the history after the checkpoint; the number of epochs already done."""
    if not run.checkpoint.is_file():
        write_history(run.path, [])
        return 0
    branch, epoch = checkpointed(run.path)
    names = list(model.branches)
    earlier = names[: names.index(branch)]
    history = [
        record
        for record in read_history(run.path)
        if record.branch in earlier or (record.branch == branch and record.epoch <= epoch)
    ]
    write_history(run.path, history)
    return len(history)


def _remaining(run: RunFolder, model: ProtoLeakNet) -> list[tuple[str, range]]:
    """Branches that are not done with the epochs that are left of each."""
    names, first, done = list(model.branches), 0, 0
    if run.checkpoint.is_file():
        branch, done = checkpointed(run.path)
        first = names.index(branch)
    epochs = model.config.train.epochs
    return [
        (name, range(1 + (done if place == first else 0), epochs + 1))
        for place, name in enumerate(names)
        if place >= first
    ]


def _train_branch(
    model: ProtoLeakNet,
    branch: Branch,
    epochs: range,
    data: TrainingData,
    run: RunFolder,
    device: torch.device,
    advance: Advance,
    on_epoch: OnEpoch | None,
    parallel: Parallel | None,
) -> None:
    """Fit the closed form of one branch, then train it for the epochs that are left."""
    images = TrainingImages.of(branch, data, model.classes)
    stepper = Stepper(branch, model.config.train, device, parallel)
    if parallel:
        parallel.copy_first(stepper.branch)
    if from_first(parallel, lambda: _begun(run, branch)):
        load_checkpoint(run.path, stepper)
    else:
        # From here until the run is done there is a checkpoint: its absence means finished.
        from_first(parallel, lambda: save_checkpoint(run.path, stepper, epoch=0))
    from_first(parallel, lambda: write_held_out(run.path, images.val))
    patience = model.config.train.patience
    for epoch in epochs:
        if from_first(parallel, lambda: _out_of_patience(run.epochs(branch.name), patience)):
            break
        record = _run_epoch(model, stepper, images, run, epoch, advance)
        if on_epoch is not None:
            on_epoch(record)


def _begun(run: RunFolder, branch: Branch) -> bool:
    return run.checkpoint.is_file() and checkpointed(run.path)[0] == branch.name


def _out_of_patience(epochs: list[EpochRecord], patience: int) -> bool:
    best = max((record.epoch for record in epochs if record.best), default=0)
    return patience > 0 and len(epochs) - best >= patience


def _run_epoch(
    model: ProtoLeakNet,
    stepper: Stepper,
    images: TrainingImages,
    run: RunFolder,
    epoch: int,
    advance: Advance,
) -> EpochRecord:
    """Train and validate a branch once, and bring the folder up to date."""
    start = time.perf_counter()
    loss = train_epoch(stepper, images, epoch, advance)
    rate = len(images) / (time.perf_counter() - start)

    def close() -> EpochRecord:
        return _close_epoch(model, stepper, images.val, run, epoch, loss, start, rate)

    return from_first(stepper.parallel, close)


def _close_epoch(
    model: ProtoLeakNet,
    stepper: Stepper,
    val: ImageColumns,
    run: RunFolder,
    epoch: int,
    loss: float,
    start: float,
    rate: float,
) -> EpochRecord:
    """Validate a branch after an epoch, and write what follows from it."""
    branch = stepper.branch
    found = validate(branch, val, model.classes)
    if found is None or not math.isfinite(loss):
        raise TrainingError(
            f"the loss of {branch.name} is not finite in epoch {epoch}: lower train.learning_rate "
            f"(now {stepper.config.learning_rate:g}) or take train.precision = fp32"
        )
    record = EpochRecord(
        branch=branch.name,
        epoch=epoch,
        loss=loss,
        val_loss=found.loss,
        val_macro_auc=found.macro_auc,
        val_top1=found.top1,
        best=keep_if_best(run.weights, model, branch.name, epoch, found),
        temperature=_temperature(branch),
        attention=found.attention,
        seconds=time.perf_counter() - start,
        images_per_second=rate,
    )
    append_history(run.path, record)
    save_checkpoint(run.path, stepper, epoch)
    return record


def _temperature(branch: Branch) -> float | None:
    return branch.head.temperature.item() if isinstance(branch.head, PrototypeHead) else None
