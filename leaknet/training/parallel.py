"""Data-parallel training under torchrun: each process computes a part of every batch.

All processes hold the same weights and draw the same order, views and noise. Gradients are summed
over the processes, and batch normalisation takes its moments over the whole batch, so that an epoch
is that of one process but for rounding. The attention's dropout of steps is drawn for each part.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

import torch
from torch import Tensor, distributed, nn

from leakcache.errors import LeakError, TrainingError

PATIENCE = timedelta(hours=12)
"""Longest wait for another process: the first one validates, fuses and writes alone."""

Value = TypeVar("Value")


@dataclass(frozen=True)
class Parallel:
    """A process among those that train one model.

    Attributes:
        rank: its number, from 0.
        size: how many there are.
    """

    rank: int
    size: int

    @classmethod
    def join(cls, device: torch.device) -> Parallel | None:
        """The processes that torchrun started; None where it did not, or only one."""
        if not distributed.is_available() or not distributed.is_torchelastic_launched():
            return None
        if not distributed.is_initialized():
            backend = "nccl" if device.type == "cuda" else "gloo"
            distributed.init_process_group(backend, timeout=PATIENCE)
        found = cls(distributed.get_rank(), distributed.get_world_size())
        return found if found.size > 1 else None

    def part(self, count: int) -> tuple[slice, float]:
        """Rows of a batch that this process computes, and their weight in the batch's mean."""
        if count < self.size:
            return slice(count), 1 / self.size
        start, stop = (count * rank // self.size for rank in (self.rank, self.rank + 1))
        return slice(start, stop), (stop - start) / count

    def sum_gradients(self, parameters: Iterable[nn.Parameter]) -> None:
        """Sum gradients over all processes, in one message."""
        gradients = [p.grad for p in parameters if p.grad is not None]
        total = torch.cat([gradient.flatten() for gradient in gradients])
        distributed.all_reduce(total)
        sizes = [gradient.numel() for gradient in gradients]
        for gradient, values in zip(gradients, torch.split(total, sizes), strict=True):
            gradient.copy_(values.view_as(gradient))

    def sum(self, value: Tensor) -> Tensor:
        """Sum of a tensor over all processes."""
        total = value.clone()
        distributed.all_reduce(total)
        return total

    def copy_first(self, model: nn.Module) -> None:
        """Replace all values by those of the first process: hosts may round otherwise."""
        for value in model.state_dict().values():
            distributed.broadcast(value, 0)

    def synchronise(self, model: nn.Module) -> None:
        """Let batch normalisation take its moments over the whole batch.

        Raises:
            TrainingError: the model normalises batches in a way that is not known here.
        """
        for module in model.modules():
            if type(module) is nn.BatchNorm2d:
                module.__class__ = _WholeBatchNorm
            elif isinstance(module, nn.modules.batchnorm._BatchNorm):
                raise TrainingError(
                    f"{type(module).__name__} cannot be trained by several processes: train with "
                    "one, or with latents.backbone = resnet18"
                )


def from_first(parallel: Parallel | None, function: Callable[[], Value]) -> Value:
    """What a function returns, or raises, in the first process; called there alone.

    Args:
        parallel: None for one process.
        function: returns what can be pickled.
    """
    if parallel is None:
        return function()
    found: list[Any] = [None]
    if parallel.rank == 0:
        try:
            found = [function()]
        except LeakError as error:
            found = [error]
    distributed.broadcast_object_list(found)
    if isinstance(found[0], LeakError):
        raise found[0]
    value: Value = found[0]
    return value


class _WholeBatchNorm(nn.BatchNorm2d):
    """Batch normalisation over the parts of all processes, on any device."""

    def forward(self, input: Tensor) -> Tensor:
        """Normalise; in evaluation as its parent does."""
        if not self.training or self.running_mean is None or self.running_var is None:
            return super().forward(input)
        values = input.float()
        count = _summed(values.new_tensor(values.numel() / values.shape[1]))
        mean = _summed(values.sum((0, 2, 3))) / count
        centred = values - mean[:, None, None]
        variance = _summed(centred.square().sum((0, 2, 3))) / count
        with torch.no_grad():
            unbiased = variance * count / (count - 1)
            self.running_mean.lerp_(mean, self.momentum or 0.0)
            self.running_var.lerp_(unbiased, self.momentum or 0.0)
            if self.num_batches_tracked is not None:
                self.num_batches_tracked.add_(1)
        scale = (variance + self.eps).rsqrt() * self.weight
        found = centred * scale[:, None, None] + self.bias[:, None, None]
        return found.to(input.dtype)


class _Summed(torch.autograd.Function):
    """A sum over all processes, whose gradient is that of the sum of their losses."""

    @staticmethod
    def forward(context: Any, values: Tensor) -> Tensor:
        total = values.clone()
        distributed.all_reduce(total)
        return total

    @staticmethod
    def backward(context: Any, gradient: Tensor) -> Tensor:
        total = gradient.clone()
        distributed.all_reduce(total)
        return total


def _summed(values: Tensor) -> Tensor:
    total: Tensor = _Summed.apply(values)
    return total
