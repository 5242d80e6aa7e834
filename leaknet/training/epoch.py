"""One pass over the training images, and the quality of a branch on the validation fold after it.

Gather, noise, features and step run on the device. Everything random in an epoch follows from
(seed, epoch), so that a run continued from the end of any epoch goes on exactly as if it had never
stopped.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn
from torch.nn import functional as F

from leaknet.config import TrainConfig
from leaknet.data.columns import ImageColumns, TrainingData
from leaknet.features.noise import epoch_seed, seeded_globally, training_generator
from leaknet.files import read_metadata, read_tensors, save_tensors
from leaknet.metrics import closed_values
from leaknet.model.branch import HELD_OUT, Branch, BranchOutput, Sampler
from leaknet.model.inference import run_branch
from leaknet.model.protoleaknet import ProtoLeakNet
from leaknet.training.parallel import Parallel

# One optimisation step: forward, loss, backward, clip, update, in the chosen precision.

_AUTOCAST = {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}
_OPTIMIZERS = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW}


class Stepper:
    """Fits a branch, batch by batch.

    Attributes:
        branch: on its device; on CUDA in channels-last memory format.
        config: optimiser, precision and clipping.
        device: where the branch computes.
        optimizer: over all parameters of the branch.
        scaler: of the loss; active in fp16 only.
        parallel: processes that each compute a part of every batch; None for one.
    """

    def __init__(
        self,
        branch: Branch,
        config: TrainConfig,
        device: torch.device,
        parallel: Parallel | None = None,
    ) -> None:
        branch.to(device)
        self.parallel = parallel
        if parallel:
            parallel.synchronise(branch)
        if device.type == "cuda":
            branch.to(memory_format=torch.channels_last)
        self.branch, self.config, self.device = branch, config, device
        self.optimizer: torch.optim.Optimizer = _OPTIMIZERS[self.config.optimizer](
            branch.parameters(),
            lr=self.config.learning_rate,
            weight_decay=self.config.weight_decay,
            fused=True,
        )
        self.scaler = torch.amp.GradScaler(device.type, enabled=self.config.precision == "fp16")
        self._dtype = _AUTOCAST[self.config.precision]

    def step(self, inputs: Tensor, targets: Int64[Tensor, "batch"]) -> Float[Tensor, ""]:
        """Take one step; the loss before it, left on the device.

        Args:
            inputs: of the branch, as its sampler gives them.
            targets: class numbers.
        """
        self.optimizer.zero_grad(set_to_none=True)
        share = 1.0
        if self.parallel:
            part, share = self.parallel.part(len(targets))
            inputs, targets = inputs[part], targets[part]
        with torch.autocast(self.device.type, self._dtype, enabled=self._dtype is not None):
            output = self.branch.attribute(inputs)
        loss = self._loss(output, targets) * share
        torch.autograd.backward(self.scaler.scale(loss))
        if self.parallel:
            self.parallel.sum_gradients(self.branch.parameters())
        if self.config.clip > 0:
            self.scaler.unscale_(self.optimizer)
            nn.utils.clip_grad_norm_(self.branch.parameters(), self.config.clip)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.branch.head.project()
        return self.parallel.sum(loss.detach()) if self.parallel else loss.detach()

    def _loss(self, output: BranchOutput, targets: Int64[Tensor, "batch"]) -> Float[Tensor, ""]:
        loss = F.cross_entropy(output.logits, targets)
        steps = output.attention.shape[1]
        if self.config.entropy > 0 and steps > 1:
            # A step left out has weight 0, where the gradient of a·log a does not exist.
            weights = output.attention.clamp_min(1e-12)
            entropy = -(weights * weights.log()).sum(dim=1).mean()
            loss = loss + self.config.entropy * (math.log(steps) - entropy)
        return loss


_ORDER, _VIEW, _LAYERS = 1, 2, 3  # purposes of seeds; 0 is the noise


@dataclass(frozen=True)
class TrainingImages:
    """What gradient descent reads of the training fold.

    Attributes:
        sample: inputs of a batch; see `leaknet.model.branch.Sampler`.
        val: the validation fold, with held-out embeddings if the closed form is fitted to it.
        targets: class number of every image.
        views: crops of each image.
        rows: images to train on.
    """

    sample: Sampler
    val: ImageColumns
    targets: Int64[Tensor, "image"]
    views: int
    rows: Int64[Tensor, "row"]

    @classmethod
    def of(
        cls,
        branch: Branch,
        data: TrainingData,
        classes: tuple[str, ...],
        rows: Int64[Tensor, "row"] | None = None,
    ) -> TrainingImages:
        """Fit the closed form of a branch; what is left to train on, all rows by default."""
        sample, held_out = branch.fit(data, classes)
        val = data.val if held_out is None else data.val.with_column(HELD_OUT, held_out)
        everything = torch.arange(len(data.train))
        targets = data.train.targets(classes)
        return cls(sample, val, targets, data.train.views, everything if rows is None else rows)

    def __len__(self) -> int:
        return len(self.rows)


def train_epoch(
    stepper: Stepper, images: TrainingImages, epoch: int, advance: Callable[[int], object]
) -> float:
    """Train on every image once, one random view each; the mean loss.

    Args:
        stepper: branch and optimiser, which are changed.
        images: what to train on.
        epoch: from 1; decides order, views and noise.
        advance: called with the number of images done since the last call.
    """
    seed, device = stepper.config.seed, stepper.device
    noise = training_generator(seed, epoch, device)
    total = torch.zeros((), device=device)
    stepper.branch.train()
    with seeded_globally(epoch_seed(seed, epoch, _LAYERS), device):
        for rows, views in _batches(images, stepper.config.batch_size, seed, epoch):
            targets = images.targets[rows].to(device)
            total += stepper.step(images.sample(rows, views, noise), targets) * len(rows)
            advance(len(rows))
    return float(total) / len(images)


def _batches(
    images: TrainingImages, size: int, seed: int, epoch: int
) -> Iterator[tuple[Int64[Tensor, "batch"], Int64[Tensor, "batch"]]]:
    """Image numbers and view numbers of each batch, in the epoch's order."""
    order, draws = (_generator(seed, epoch, purpose) for purpose in (_ORDER, _VIEW))
    # Drawn on the CPU, so that the order is the same on any device; moved once.
    device = images.targets.device
    for window in _windows(images, order):
        views = torch.randint(images.views, (len(window),), generator=draws)
        sizes = batch_sizes(len(window), size)
        parts = (torch.split(values.to(device), sizes) for values in (window, views))
        yield from zip(*parts, strict=True)


def _windows(
    images: TrainingImages, generator: torch.Generator
) -> Iterator[Int64[Tensor, "window"]]:
    """All images in random order, at once where all are in memory."""
    if images.sample.windows:
        yield from images.sample.windows.epoch(images.rows, generator)
    else:
        yield images.rows[torch.randperm(len(images), generator=generator)]


def _generator(seed: int, epoch: int, purpose: int) -> torch.Generator:
    return torch.Generator().manual_seed(epoch_seed(seed, epoch, purpose))


def batch_sizes(count: int, size: int) -> list[int]:
    """Sizes of consecutive batches; a last image alone joins the batch before it.

    Batch normalisation cannot learn from a single image.
    """
    sizes = [size] * (count // size)
    rest = count % size
    if rest == 1 and sizes:
        sizes[-1] += 1
    elif rest:
        sizes.append(rest)
    return sizes


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
