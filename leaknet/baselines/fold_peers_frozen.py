"""Networks that are only ever looked through: no gradient, evaluation mode, known by their hash."""

from __future__ import annotations

import hashlib
from typing import TypeVar

import torch
from torch import nn

Network = TypeVar("Network", bound=nn.Module)


def frozen(network: Network, device: torch.device) -> Network:
    """The network on a device, without gradients, in evaluation mode."""
    return network.to(device).eval().requires_grad_(False)


def fingerprint(network: nn.Module) -> str:
    """Hash of all tensors of a network: names, shapes, and values as float32."""
    digest = hashlib.sha256()
    for name, tensor in sorted(network.state_dict().items()):
        digest.update(f"{name} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.detach().cpu().float().contiguous().numpy().tobytes())
    return digest.hexdigest()


def count(network: nn.Module) -> int:
    """Number of parameters."""
    return sum(parameter.numel() for parameter in network.parameters())
