"""Quality of a branch on the validation fold, and which epoch's weights a run keeps."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from torch.nn import functional as F

from leaknet.data.columns import ImageColumns
from leaknet.files import read_metadata, read_tensors, save_tensors
from leaknet.metrics import closed_values
from leaknet.model.branch import Branch
from leaknet.model.inference import run_branch
from leaknet.model.protoleaknet import ProtoLeakNet


@dataclass(frozen=True)
class Validation:
    """Quality on the validation fold.

    Attributes:
        loss: mean cross-entropy.
        macro_auc: unweighted mean of one-vs-rest areas, in [0, 1].
        top1: accuracy.
        attention: mean weight of each step.
    """

    loss: float
    macro_auc: float
    top1: float
    attention: tuple[float, ...]


def validate(branch: Branch, val: ImageColumns, classes: tuple[str, ...]) -> Validation | None:
    """Score the fold under evaluation noise; None where a logit is not finite."""
    logits, attention = run_branch(branch, val)
    if not bool(torch.isfinite(logits).all()):
        return None
    targets = val.targets(classes).cpu()
    quality = closed_values(logits.numpy(), targets.numpy())
    return Validation(
        loss=float(F.cross_entropy(logits, targets)),
        macro_auc=float(quality["macro_auc"][0]),
        top1=float(quality["top1"][0]),
        attention=tuple(attention.mean(dim=0).tolist()),
    )


def keep_if_best(path: Path, model: ProtoLeakNet, name: str, epoch: int, found: Validation) -> bool:
    """Write a branch's weights if no others of it are better by macro AUC, then by loss.

    Equal ones are written again: they may be of this very epoch, whose first run was stopped
    before its checkpoint. Weights of other branches in the file stay.
    """
    tensors, kept = model.state_dict(), {}
    if path.is_file():
        kept = read_metadata(path)
        rank = (found.macro_auc, -found.loss)
        if name in kept and (kept[name]["val_macro_auc"], -kept[name]["val_loss"]) > rank:
            return False
        stored, _ = read_tensors(path)
        own = f"{name}."
        tensors |= {key: value for key, value in stored.items() if not key.startswith(own)}
    quality = {"epoch": epoch, "val_macro_auc": found.macro_auc, "val_loss": found.loss}
    save_tensors(path, tensors, {**kept, name: quality})
    return True
