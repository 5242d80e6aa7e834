"""A run folder: which files it holds, whether they belong together, and to which cache.

config.toml, classes.json   settings and classes; see `leaknet.model.run_record`
model.safetensors           weights of the best epoch so far
held_out.safetensors        validation images; see `leaknet.training.held_out`
history.jsonl               one line an epoch
last.safetensors            state to go on from; there only until training is finished
metrics.json, scorers.safetensors, embeddings.h5    written by scoring
range.json                  sizes and compressions of the validation images
families.toml               families of related generators, to be edited
checksums.json              SHA-256 of these files; see `leaknet.checksums`
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from leakcache.errors import RunError
from leakcache.files import partial_of
from leakcache.store.cache import Cache
from leaknet.checksums import CHECKED, CHECKSUMS, forget_former
from leaknet.config import RunConfig, dump_config, preset
from leaknet.files import read_metadata
from leaknet.model.fusion import Fusion
from leaknet.model.protoleaknet import WEIGHTS, ProtoLeakNet
from leaknet.model.run_record import CLASSES, CONFIG, RunRecord, training_hash
from leaknet.training.checkpoint import CHECKPOINT
from leaknet.training.history import HISTORY, EpochRecord, read_history


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
