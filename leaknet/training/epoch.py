"""One pass over the training latents: gather, noise, features and step, all on the device.

Everything random in an epoch follows from (seed, epoch), so that a run continued from the
end of any epoch goes on exactly as if it had never stopped.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn
from torch.nn import functional as F

from leaknet.config import TrainConfig
from leaknet.data.split import SplitLatents
from leaknet.features.noise import epoch_seed, training_generator, training_noise
from leaknet.model.protoleaknet import ModelOutput, ProtoLeakNet

# One optimisation step: forward, loss, backward, clip, update, in the chosen precision.

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


_ORDER, _VIEW, _LAYERS = 1, 2, 3  # purposes of seeds; 0 is the noise


def train_epoch(
    stepper: Stepper,
    split: SplitLatents,
    epoch: int,
    advance: Callable[[int], object],
    companions: Float[Tensor, "image dimension"] | None = None,
) -> float:
    """Train on every image once, one random view each; the mean loss.

    Args:
        stepper: model and optimiser, which are changed.
        split: the training fold; its latents may lie on any device.
        epoch: from 1; decides order, views and noise.
        advance: called with the number of images done since the last call.
        companions: embedded statistics of the images; None without them.
    """
    model, seed, device = stepper.model, stepper.config.seed, stepper.device
    features = model.config.features
    noise = training_generator(seed, epoch, device)
    targets = split.targets(model.classes)
    total = torch.zeros((), device=device)
    model.train()
    with seeded_globally(epoch_seed(seed, epoch, _LAYERS), device):
        for images, crops in _batches(split, stepper.config.batch_size, seed, epoch):
            maps = None
            if features.latents:
                z0 = split.flat.index_select(0, crops).to(device)
                steps = len(features.timesteps)
                eps = training_noise(len(z0), steps, split.shape, noise) if features.noise else None
                maps = model.features(z0, eps)
            beside = None if companions is None else companions[images.to(companions.device)]
            loss = stepper.step(maps, targets[images].to(device), beside)
            total += loss * len(images)
            advance(len(images))
    return float(total) / len(split)


def _batches(
    split: SplitLatents, size: int, seed: int, epoch: int
) -> Iterator[tuple[Int64[Tensor, "batch"], Int64[Tensor, "batch"]]]:
    """Image numbers and crop numbers of each batch, in the epoch's order, where z0 is."""
    order = torch.randperm(len(split), generator=_generator(seed, epoch, _ORDER))
    view = torch.randint(split.views, (len(split),), generator=_generator(seed, epoch, _VIEW))
    # Drawn on the processor, so that the order is the same on any device; moved only once.
    images, crops = order.to(split.z0.device), (order * split.views + view).to(split.z0.device)
    sizes = batch_sizes(len(split), size)
    yield from zip(torch.split(images, sizes), torch.split(crops, sizes), strict=True)


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


@contextmanager
def seeded_globally(seed: int, device: torch.device) -> Iterator[None]:
    """Seed torch's global generators, which dropout draws from, and restore them after."""
    cuda = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices=cuda):
        torch.manual_seed(seed)
        yield
