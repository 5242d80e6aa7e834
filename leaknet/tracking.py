"""Experiment trackers, by their own clients: TensorBoard, Trackio, Weights & Biases, MLflow.

Off unless `--log` names one. Each keeps what it is given in its own place: TensorBoard in the
folder `tensorboard` of the run, the others where their environment variables say.
"""

from __future__ import annotations

import importlib
import importlib.util
import math
import re
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from leakcache.errors import ConfigError

if TYPE_CHECKING:
    from leaknet.training.run_folder import EpochRecord

PROJECT = "leak"
PACKAGES = {
    "tensorboard": "tensorboard",
    "trackio": "trackio",
    "wandb": "wandb",
    "mlflow": "mlflow",
}
"""Package of each client, by the name that `--log` takes."""
_EPOCH = ("loss", "val_loss", "val_macro_auc", "val_top1", "temperature", "images_per_second")


class Tracker(ABC):
    """An open run of a tracker; values that are no finite numbers are left out."""

    def config(self, settings: Mapping[str, Any]) -> None:
        """The settings of the run, by dotted names."""
        self.write_config(dict(_flat(settings)))

    def epoch(self, record: EpochRecord) -> None:
        """What was measured at the end of an epoch, under the name of its branch."""
        values = {f"{record.branch}/{name}": getattr(record, name) for name in _EPOCH}
        self.write_scalars(_finite(values), record.epoch)

    def metrics(self, metrics: Mapping[str, Any]) -> None:
        """Final metrics, by dotted names; lists are left out."""
        self.write_scalars(_finite(dict(_flat(metrics))), 0)

    @abstractmethod
    def write_config(self, settings: dict[str, Any]) -> None:
        """Write settings."""

    @abstractmethod
    def write_scalars(self, values: dict[str, float], step: int) -> None:
        """Write numbers."""

    @abstractmethod
    def close(self) -> None:
        """Write what is left."""


def check_client(client: str) -> None:
    """Refuse a tracker whose client is not installed.

    Raises:
        ConfigError: with the command that installs it.
    """
    if importlib.util.find_spec(PACKAGES[client]) is None:
        raise ConfigError(f"--log {client}: not installed: pip install {PACKAGES[client]}")


@contextmanager
def open_tracker(client: str | None, folder: Path) -> Iterator[Tracker | None]:
    """A tracker for the run in a folder, closed with the block; None where none is asked for.

    Raises:
        ConfigError: as `check_client`.
    """
    if client is None:
        yield None
        return
    check_client(client)
    tracker: Tracker
    if client == "tensorboard":
        tracker = _TensorBoard(folder)
    else:
        tracker = _MLflow(folder) if client == "mlflow" else _Wandb(client, folder)
    try:
        yield tracker
    finally:
        tracker.close()


class _TensorBoard(Tracker):
    def __init__(self, folder: Path) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self._writer: Any = SummaryWriter(str(folder / "tensorboard"))

    def write_config(self, settings: dict[str, Any]) -> None:
        rows = "\n".join(f"| {name} | {value} |" for name, value in settings.items())
        self._writer.add_text("config", f"| setting | value |\n|---|---|\n{rows}")

    def write_scalars(self, values: dict[str, float], step: int) -> None:
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)

    def close(self) -> None:
        self._writer.close()


class _Wandb(Tracker):
    """Weights & Biases, and Trackio, which has the same calls."""

    def __init__(self, client: str, folder: Path) -> None:
        self._client: Any = importlib.import_module(PACKAGES[client])
        self._run: Any = self._client.init(project=PROJECT, name=folder.name)

    def write_config(self, settings: dict[str, Any]) -> None:
        self._run.config.update(settings)

    def write_scalars(self, values: dict[str, float], step: int) -> None:
        self._client.log({**values, "epoch": step} if step else values)

    def close(self) -> None:
        self._client.finish()


class _MLflow(Tracker):
    def __init__(self, folder: Path) -> None:
        self._client: Any = importlib.import_module(PACKAGES["mlflow"])
        self._client.set_experiment(PROJECT)
        self._client.start_run(run_name=folder.name)

    def write_config(self, settings: dict[str, Any]) -> None:
        self._client.log_params(settings)

    def write_scalars(self, values: dict[str, float], step: int) -> None:
        # MLflow refuses other characters, which names of generators may have.
        named = {re.sub(r"[^\w\-. :/]", "_", name): value for name, value in values.items()}
        self._client.log_metrics(named, step=step)

    def close(self) -> None:
        self._client.end_run()


def _flat(content: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in content.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _finite(values: Mapping[str, Any]) -> dict[str, float]:
    return {
        name: float(value)
        for name, value in values.items()
        if isinstance(value, int | float) and math.isfinite(value)
    }
