"""One pass of a trained model over a split: pooled embeddings, logits, attention.

In evaluation mode and under noise that depends on the image alone, so that an image gets
the same row in any batch. With several views an image's embedding is their mean.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from leaknet.data.embeddings import Embeddings
from leaknet.data.split import SplitLatents, check_statistics
from leaknet.features.noise import evaluation_noise
from leaknet.model.protoleaknet import ModelOutput, ProtoLeakNet

BATCH = 64


@dataclass(frozen=True)
class SplitOutput:
    """What the model says about every image of a split, on the processor."""

    vectors: Float[Tensor, "image dimension"]
    logits: Float[Tensor, "image class"]
    attention: Float[Tensor, "image step"]


def embed(
    model: ProtoLeakNet,
    split: SplitLatents,
    *,
    run: str = "",
    batch_size: int = BATCH,
    advance: Callable[[int], object] | None = None,
) -> Embeddings:
    """Embed every image of a split.

    Args:
        model: on the device that is to compute.
        split: images; their latents may lie on any device.
        run: name or hash of the run, recorded with the result.
        batch_size: images at a time; changes the result by less than 1e-4.
        advance: called with the number of images done since the last call.

    Raises:
        ScoringError: an output is not finite, or a closed label is not a class of the model.
        CacheIncomplete: the model reads statistics of the pixels, and the images have none.
    """
    output = run_split(model, split, batch_size=batch_size, advance=advance)
    return Embeddings(
        vectors=output.vectors.numpy(),
        logits=output.logits.numpy(),
        attention=output.attention.numpy(),
        labels=split.labels,
        groups=split.groups,
        folds=split.folds,
        hashes=split.hashes,
        paths=split.paths,
        classes=model.classes,
        run=run,
        seed=model.config.train.seed,
    )


@torch.inference_mode()
def run_split(
    model: ProtoLeakNet,
    split: SplitLatents,
    *,
    batch_size: int = BATCH,
    advance: Callable[[int], object] | None = None,
) -> SplitOutput:
    """Outputs of the model in evaluation mode; its mode is left as it was."""
    check_statistics(model.config.features, split)
    training = model.training
    model.eval()
    parts = []
    for start in range(0, len(split), batch_size):
        output = _run_batch(model, split, slice(start, start + batch_size))
        parts.append((output.embedding.cpu(), output.logits.cpu(), output.attention.cpu()))
        if advance is not None:
            advance(len(output.logits))
    model.train(training)
    if not parts:
        return _empty(model)
    return SplitOutput(*(torch.cat(column) for column in zip(*parts, strict=True)))


def _run_batch(model: ProtoLeakNet, split: SplitLatents, rows: slice) -> ModelOutput:
    device = next(model.parameters()).device
    z0 = split.z0[rows].to(device)
    noise = noise_of(model, split.hashes[rows].tolist(), split.views)
    output: ModelOutput = model(
        z0.flatten(0, 1),
        None if noise is None else noise.to(device),
        _statistics(model, split, rows),
    )
    if split.views == 1:
        return output
    pooled, attention = (
        values.view(-1, split.views, values.shape[1]).mean(dim=1)
        for values in (output.embedding, output.attention)
    )
    return model.classify(pooled, attention)


def _statistics(
    model: ProtoLeakNet, split: SplitLatents, rows: slice
) -> Float[Tensor, "crop part value"] | None:
    """Statistics of these images, once for each view; None for a model that reads none."""
    if model.companion is None:
        return None
    found = split.evidence(rows, activations=model.config.features.activations)
    return found.to(next(model.parameters()).device).repeat_interleave(split.views, dim=0)


def noise_of(
    model: ProtoLeakNet, hashes: Sequence[str], views: int
) -> Float[Tensor, "crop step channel height width"] | None:
    """Evaluation noise of these images, views in the order of `SplitLatents.flat`."""
    config = model.config.features
    if not (config.noise and config.latents):
        return None
    draws = [
        evaluation_noise(config.noise_seed, hashes, config.timesteps, model.shape, view)
        for view in range(views)
    ]
    return torch.from_numpy(np.stack(draws, axis=1)).flatten(0, 1)


def _empty(model: ProtoLeakNet) -> SplitOutput:
    widths = (
        model.config.model.dimension,
        len(model.classes),
        len(model.config.features.timesteps),
    )
    return SplitOutput(*(torch.empty(0, width) for width in widths))
