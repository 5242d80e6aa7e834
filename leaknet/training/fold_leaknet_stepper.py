"""One optimisation step: forward, loss, backward, clip, update, in the chosen precision."""

from __future__ import annotations

import math

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn
from torch.nn import functional as F

from leaknet.fold_leaknet_sections import TrainConfig
from leaknet.model.protoleaknet import ModelOutput, ProtoLeakNet

_AUTOCAST = {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}
_OPTIMIZERS = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW}


class Stepper:
    """Fits a model, batch by batch.

    Attributes:
        model: on its device; on CUDA in channels-last memory format.
        device: where it computes.
        optimizer: over all of the model's parameters.
        scaler: of the loss; does something in fp16 only.
    """

    def __init__(self, model: ProtoLeakNet, device: torch.device) -> None:
        model.to(device)
        if device.type == "cuda":
            model.to(memory_format=torch.channels_last)
        self.model, self.device = model, device
        self.config: TrainConfig = model.config.train
        self.optimizer: torch.optim.Optimizer = _OPTIMIZERS[self.config.optimizer](
            model.parameters(),
            lr=self.config.learning_rate,
            weight_decay=self.config.weight_decay,
            fused=True,
        )
        self.scaler = torch.amp.GradScaler(device.type, enabled=self.config.precision == "fp16")
        self._dtype = _AUTOCAST[self.config.precision]

    def step(
        self,
        features: Float[Tensor, "batch step channel height width"] | None,
        targets: Int64[Tensor, "batch"],
        companions: Float[Tensor, "batch dimension"] | None = None,
    ) -> Float[Tensor, ""]:
        """Take one step; the loss before it, left on the device.

        Args:
            features: ready maps; None without latents.
            targets: class numbers.
            companions: embedded statistics; None without them.
        """
        self.optimizer.zero_grad(set_to_none=True)
        with torch.autocast(self.device.type, self._dtype, enabled=self._dtype is not None):
            output = self.model.attribute(features, companions)
        loss = self._loss(output, targets)
        torch.autograd.backward(self.scaler.scale(loss))
        if self.config.clip > 0:
            self.scaler.unscale_(self.optimizer)
            nn.utils.clip_grad_norm_(self.model.parameters(), self.config.clip)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.model.head.project()
        return loss.detach()

    def _loss(self, output: ModelOutput, targets: Int64[Tensor, "batch"]) -> Float[Tensor, ""]:
        loss = F.cross_entropy(output.logits, targets)
        steps = output.attention.shape[1]
        if self.config.entropy > 0 and steps > 1:
            # A step left out has weight 0, where the gradient of a·log a does not exist.
            weights = output.attention.clamp_min(1e-12)
            entropy = -(weights * weights.log()).sum(dim=1).mean()
            loss = loss + self.config.entropy * (math.log(steps) - entropy)
        return loss
