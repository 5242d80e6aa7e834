"""The state of training at the end of an epoch, in one safetensors file.

The branch in training and its optimiser only: the best weights of each branch are in
model.safetensors, and all randomness follows from the seed and the epoch's number.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from leakcache.errors import RunError
from leaknet.files import read_metadata, read_tensors, save_tensors
from leaknet.training.epoch import Stepper

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
