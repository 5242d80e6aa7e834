"""One pass over the training latents: gather, noise, features and step, all on the device.

Everything random in an epoch follows from (seed, epoch), so that a run continued from the
end of any epoch goes on exactly as if it had never stopped.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from leaknet.data.split import SplitLatents
from leaknet.features.noise import epoch_seed, training_generator, training_noise
from leaknet.training.fold_leaknet_stepper import Stepper

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
