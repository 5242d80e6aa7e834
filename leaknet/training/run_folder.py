"""A run folder: which files it holds, whether they belong together, and to which cache.

config.toml, classes.json   settings and classes; see `leaknet.model.run_record`
model.safetensors           weights of the best epoch so far of each branch
held_out.safetensors        validation images, embedded by fits without their prompt group
history.jsonl               one line an epoch, of what was measured at its end
last.safetensors            state to go on from; there only until training is finished
metrics.json, scorers.safetensors, embeddings.h5    written by scoring
range.json                  sizes and compressions of the validation images
families.toml               families of related generators, to be edited
checksums.json              SHA-256 of these files; see `leaknet.checksums`

The closed form of the statistics is fitted to training and validation images. What calibrates a
run must not have been fitted to, so validation images keep held-out embeddings. The state to go on
from is that of the branch in training and its optimiser: all randomness follows from the seed and
the epoch's number.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from leakcache.errors import RunError
from leakcache.files import parse_json, partial_of
from leakcache.store.cache import Cache
from leaknet.checksums import CHECKED, CHECKSUMS, forget_former, is_there, read_text, was_written
from leaknet.config import RunConfig, dump_config, preset
from leaknet.data.columns import ImageColumns
from leaknet.files import read_metadata, read_tensors, save_tensors, write_text
from leaknet.model.branch import HELD_OUT
from leaknet.model.fusion import Fusion
from leaknet.model.protoleaknet import WEIGHTS, ProtoLeakNet
from leaknet.model.run_record import CLASSES, CONFIG, RunRecord, training_hash
from leaknet.training.epoch import Stepper


@dataclass(frozen=True)
class RunFolder:
    """Where a run lies; nothing is read until it is asked for."""

    path: Path

    @property
    def config(self) -> Path:
        """Settings, in TOML."""
        return self.path / CONFIG

    @property
    def classes(self) -> Path:
        """Generators, in JSON."""
        return self.path / CLASSES

    @property
    def weights(self) -> Path:
        """The model's weights."""
        return self.path / WEIGHTS

    @property
    def history(self) -> Path:
        """Epochs, one JSON object a line."""
        return self.path / HISTORY

    @property
    def checkpoint(self) -> Path:
        """State of an unfinished training."""
        return self.path / CHECKPOINT

    @property
    def metrics(self) -> Path:
        """Figures of merit, in JSON."""
        return self.path / "metrics.json"

    @property
    def report(self) -> Path:
        """Page of `leak report`; removed where the metrics that it shows are written again."""
        return self.path / "report.html"

    @property
    def scorers(self) -> Path:
        """Fitted detectors."""
        return self.path / "scorers.safetensors"

    @property
    def embeddings(self) -> Path:
        """Embeddings of the cache's images."""
        return self.path / "embeddings.h5"

    @property
    def finished(self) -> bool:
        """Whether training has come to its end."""
        return self.weights.is_file() and not self.checkpoint.is_file()

    def close(self) -> None:
        """Mark training as finished, and clear what a kill may have left."""
        checked = (self.path / name for name in (*CHECKED, CHECKSUMS))
        for path in (*checked, self.history, self.checkpoint):
            partial_of(path).unlink(missing_ok=True)
        forget_former(self.path)
        self.checkpoint.unlink(missing_ok=True)

    def record(self) -> RunRecord:
        """Settings, classes, latent shape and cache; raises as `RunRecord.read`."""
        return RunRecord.read(self.path)

    def epochs(self, branch: str = "") -> list[EpochRecord]:
        """What was measured at the end of each epoch, of one branch if it is named."""
        return [one for one in read_history(self.path) if branch in ("", one.branch)]

    def fusion(self) -> dict[str, Any]:
        """How the branches are weighted: `leaknet.model.fusion.Fusion` as a dictionary."""
        names = self.record().config.branches
        found: dict[str, Any] | None = read_metadata(self.weights).get("fusion")
        return found or Fusion.alone(names, names[0]).as_dict()

    def load_model(self, device: torch.device) -> ProtoLeakNet:
        """The trained model, in evaluation mode.

        Raises:
            RunError: the folder is no run, its training has not finished, or its files do not fit.
        """
        if self.checkpoint.is_file():
            raise RunError(f"{self.path}: its training has not finished; run `leak train` again")
        model = ProtoLeakNet.from_pretrained(self.path)
        model.to(device)
        return model

    def fingerprint(self) -> str:
        """SHA-256 of the weights file: what embeddings and scorers were computed with.

        Raises:
            RunError: there are no weights.
        """
        try:
            return hashlib.sha256(self.weights.read_bytes()).hexdigest()
        except OSError as error:
            raise RunError(f"{self.weights} cannot be read: run `leak train` again") from error

    def check_cache(self, cache: Cache) -> None:
        """Refuse a cache whose latents this run does not understand, or has other training data.

        Raises:
            RunError: names what differs.
        """
        record = self.record()
        if record.cache is None:
            raise RunError(f"{self.path} does not say which cache it was trained on: train again")
        reasons = _mismatches(record, cache)
        if reasons:
            raise RunError(
                f"{self.path} was trained on another cache than {cache.path}: "
                f"{'; '.join(reasons)}; build a cache that agrees, or train again"
            )


def _mismatches(record: RunRecord, cache: Cache) -> list[str]:
    reasons: list[str] = []
    if record.cache is None:
        return reasons
    if encoding := record.cache.encoding.difference(cache.manifest.encoding):
        reasons.append(encoding)
    if record.shape not in (None, cache.manifest.latent_shape[1:]):
        reasons.append(f"latents {record.shape} against {cache.manifest.latent_shape[1:]}")
    if unknown := sorted(set(cache.classes) - set(record.classes)):
        reasons.append(f"closed generators the run does not know: {', '.join(unknown)}")
    if len(cache.rows("train")) and training_hash(cache) != record.cache.training_sha256:
        reasons.append("the training or validation images differ")
    return reasons


def run_name(cache: str, config: RunConfig) -> str:
    """Folder name that tells apart runs of other settings: preset, seed, and a hash if changed."""
    name = f"{cache}-{config.preset}-seed{config.train.seed}"
    plain = preset(config.preset).with_overrides([f"train.seed={config.train.seed}"])
    if config == plain:
        return name
    return f"{name}-{hashlib.sha256(dump_config(config).encode()).hexdigest()[:6]}"


HISTORY = "history.jsonl"


@dataclass(frozen=True)
class EpochRecord:
    """One epoch.

    Attributes:
        branch: that was trained.
        epoch: its number, from 1.
        loss: mean training loss.
        val_loss: mean cross-entropy on the validation fold.
        val_macro_auc: unweighted mean of one-vs-rest areas there, in [0, 1].
        val_top1: accuracy there.
        best: whether the run keeps these weights of the branch.
        temperature: τ; None with a linear head.
        attention: mean weight of each step on the validation fold.
        seconds: of training and validation.
        images_per_second: of training alone.
    """

    branch: str
    epoch: int
    loss: float
    val_loss: float
    val_macro_auc: float
    val_top1: float
    best: bool
    temperature: float | None
    attention: tuple[float, ...]
    seconds: float
    images_per_second: float


def append_history(folder: Path, record: EpochRecord) -> None:
    """Add one line at the end."""
    write_history(folder, [*read_history(folder), record])


def read_history(folder: Path) -> list[EpochRecord]:
    """All epochs, in order; none if there is no such file.

    Raises:
        RunError: a line is damaged, or the file was changed.
    """
    path = folder / HISTORY
    if not is_there(path):
        if was_written(path):
            raise RunError(f"{path} is missing: restore it, or train again")
        return []
    records = []
    try:
        lines = read_text(path).splitlines()
    except (OSError, ValueError) as error:
        if isinstance(error, RunError):
            raise
        raise RunError(f"{path} cannot be read ({error}): train again") from error
    for number, line in enumerate(lines, start=1):
        try:
            content = parse_json(line)
            records.append(EpochRecord(**{**content, "attention": tuple(content["attention"])}))
        except (ValueError, TypeError, KeyError) as error:
            raise RunError(f"{path}, line {number} is damaged: train again") from error
    return records


def write_history(folder: Path, records: Sequence[EpochRecord]) -> None:
    """Replace all lines."""
    write_text(folder / HISTORY, "".join(json.dumps(asdict(record)) + "\n" for record in records))


CHECKPOINT = "last.safetensors"


def save_checkpoint(folder: Path, stepper: Stepper, epoch: int) -> None:
    """Write the state of a branch after `epoch` epochs, whole or not at all."""
    tensors = {f"branch.{name}": tensor for name, tensor in stepper.branch.state_dict().items()}
    for name, parameter in stepper.branch.named_parameters():
        for key, value in stepper.optimizer.state[parameter].items():
            tensors[f"optimizer.{key}.{name}"] = value
    metadata = {
        "branch": stepper.branch.name,
        "epoch": epoch,
        "scaler": stepper.scaler.state_dict(),
    }
    save_tensors(folder / CHECKPOINT, tensors, metadata)


def checkpointed(folder: Path) -> tuple[str, int]:
    """Which branch was in training, and how many of its epochs are done; raises `RunError`."""
    metadata = read_metadata(folder / CHECKPOINT)
    return str(metadata["branch"]), int(metadata["epoch"])


def load_checkpoint(folder: Path, stepper: Stepper) -> None:
    """Restore the state of a branch.

    Raises:
        RunError: the file is damaged or of another model.
    """
    tensors, metadata = read_tensors(folder / CHECKPOINT)
    try:
        stepper.branch.load_state_dict(_with_prefix(tensors, "branch."))
        stepper.optimizer.load_state_dict(_optimizer_state(stepper, tensors))
    except (RuntimeError, ValueError, KeyError) as error:
        raise RunError(
            f"{folder / CHECKPOINT} does not fit this run: delete {folder} and train again"
        ) from error
    if metadata["scaler"]:
        stepper.scaler.load_state_dict(metadata["scaler"])


def _optimizer_state(stepper: Stepper, tensors: dict[str, Tensor]) -> dict[str, Any]:
    """What the optimiser's own `load_state_dict` takes: per parameter, by its number."""
    state: dict[int, dict[str, Tensor]] = {}
    for number, (name, parameter) in enumerate(stepper.branch.named_parameters()):
        for key in ("step", "exp_avg", "exp_avg_sq"):
            saved = tensors.get(f"optimizer.{key}.{name}")
            if saved is not None:
                like = torch.empty_like(parameter, device="cpu") if saved.ndim else saved.clone()
                state.setdefault(number, {})[key] = like.detach().copy_(saved)
    return {"state": state, "param_groups": stepper.optimizer.state_dict()["param_groups"]}


def _with_prefix(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {
        name.removeprefix(prefix): tensor
        for name, tensor in tensors.items()
        if name.startswith(prefix)
    }


FILE = "held_out.safetensors"


def write_held_out(run: Path, val: ImageColumns) -> None:
    """Keep the held-out embeddings of a validation fold, if it has them."""
    if HELD_OUT in val:
        save_tensors(run / FILE, {HELD_OUT: val[HELD_OUT]}, {"images": val.hashes.tolist()})


def with_held_out(run: Path, images: ImageColumns) -> ImageColumns:
    """The same images with their held-out embeddings, if the run was fitted to them.

    Raises:
        RunError: the file is missing or damaged, or the run was fitted to some of them alone.
    """
    if not is_there(run / FILE):
        if was_written(run / FILE):
            raise RunError(f"{run / FILE} is missing: restore it, or train again")
        return images
    tensors, metadata = read_tensors(run / FILE)
    places = {name: place for place, name in enumerate(metadata["images"])}
    rows = [places.get(name, -1) for name in images.hashes.tolist()]
    if not rows or max(rows) < 0:
        return images
    if min(rows) < 0:
        raise RunError(f"{run} was fitted to other validation images: train again")
    found = tensors[HELD_OUT][torch.tensor(rows)].to(images.device)
    return images.with_column(HELD_OUT, found)
