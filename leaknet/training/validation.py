"""How good the model is on the validation fold, and which epoch's weights a run keeps."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from torch.nn import functional as F

from leaknet.data.split import SplitLatents
from leaknet.files import read_metadata, save_tensors
from leaknet.metrics import closed_values
from leaknet.model.inference import run_split
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


def validate(model: ProtoLeakNet, val: SplitLatents) -> Validation | None:
    """Score the fold under evaluation noise; None where a logit is not finite."""
    output = run_split(model, val)
    if not bool(torch.isfinite(output.logits).all()):
        return None
    targets = val.targets(model.classes).cpu()
    quality = closed_values(output.logits.numpy(), targets.numpy())
    return Validation(
        loss=float(F.cross_entropy(output.logits, targets)),
        macro_auc=float(quality["macro_auc"][0]),
        top1=float(quality["top1"][0]),
        attention=tuple(output.attention.mean(dim=0).tolist()),
    )


def keep_if_best(path: Path, model: ProtoLeakNet, epoch: int, found: Validation) -> bool:
    """Write the weights if no others are better by macro AUC, then by loss.

    Equal ones are written again: they may be of this very epoch, whose first run was
    stopped before its checkpoint.
    """
    rank = (found.macro_auc, -found.loss)
    if path.is_file():
        kept = read_metadata(path)
        if (kept["val_macro_auc"], -kept["val_loss"]) > rank:
            return False
    metadata = {"epoch": epoch, "val_macro_auc": found.macro_auc, "val_loss": found.loss}
    save_tensors(path, model.state_dict(), metadata)
    return True
