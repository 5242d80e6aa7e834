"""Where torch computes, and in which precision."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from leakcache.errors import ConfigError
from leakcache.processes import local_rank


def resolve_device(name: str) -> torch.device:
    """The device of that name; `auto` takes CUDA where there is one.

    Of several processes on a host, started by torchrun or SLURM, `auto` gives each another GPU.

    Raises:
        ConfigError: there is no such device on this machine.
    """
    if name == "auto":
        if not torch.cuda.is_available():
            return torch.device("cpu")
        rank = local_rank()
        return torch.device(f"cuda:{rank % torch.cuda.device_count()}" if rank else "cuda")
    try:
        device = torch.device(name)
        torch.zeros(1, device=device).item()
    except (RuntimeError, AssertionError) as error:
        raise ConfigError(f"--device {name}: not on this machine; take auto or cpu") from error
    return device


def quick_precision(device: torch.device) -> str:
    """Of an encoder where speed counts more than the last digits: "bf16" or "fp32".

    "bf16" where the hardware computes in it; processors without AVX-512 do not.
    """
    if device.type == "cuda":
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp32"
    capable = device.type == "cpu" and torch.backends.cpu.get_cpu_capability() == "AVX512"
    return "bf16" if capable else "fp32"


def to_device(values: Tensor, device: torch.device) -> Tensor:
    """Move a tensor; to a GPU from pinned memory, so that the caller need not wait."""
    if device.type == "cuda" and values.device.type == "cpu":
        return values.pin_memory().to(device, non_blocking=True)
    return values.to(device)


@contextmanager
def torch_threads(count: int) -> Iterator[None]:
    """Limit torch on a CPU to so many threads within the block, in the calling thread.

    Operations as small as those of statistics are many times slower on several threads, above all
    eigendecompositions.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
