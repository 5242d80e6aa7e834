"""One pass of a trained model over images: embeddings, logits, attention.

In evaluation mode and under noise that depends on the image alone, so that an image gets the same
row in any batch. With several views the embedding of an image is their mean.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from leaknet.data.columns import ImageColumns
from leaknet.data.embeddings import Embeddings
from leaknet.model.branch import Branch
from leaknet.model.protoleaknet import ProtoLeakNet

BATCH = 64
Advance = Callable[[int], object]


@dataclass(frozen=True)
class SplitOutput:
    """Output of the model for images, on the CPU; `branches` has the logits of each alone.

    `density` and `evidence` are those of `ProtoLeakNet.density`.
    """

    vectors: Float[Tensor, "image dimension"]
    logits: Float[Tensor, "image class"]
    attention: Float[Tensor, "image step"]
    branches: dict[str, Float[Tensor, "image class"]]
    density: Float[Tensor, "image coordinate"] | None = None
    evidence: Float[Tensor, "image"] | None = None


def embed(
    model: ProtoLeakNet,
    images: ImageColumns,
    *,
    run: str = "",
    batch_size: int = BATCH,
    advance: Advance | None = None,
) -> Embeddings:
    """Embed images.

    Args:
        model: on the device that computes.
        images: on any device.
        run: name or hash of the run, recorded with the result.
        batch_size: images at a time; changes the result by less than 1e-4.
        advance: called with the number of images done since the last call.

    Raises:
        ScoringError: an output is not finite, or a closed label is not a class of the model.
        CacheIncomplete: the images lack a column that the model reads.
    """
    output = run_split(model, images, batch_size=batch_size, advance=advance)
    return Embeddings(
        vectors=output.vectors.numpy(),
        logits=output.logits.numpy(),
        attention=output.attention.numpy(),
        branches={name: logits.numpy() for name, logits in output.branches.items()},
        density=None if output.density is None else output.density.numpy(),
        evidence=None if output.evidence is None else output.evidence.numpy(),
        labels=images.labels,
        groups=images.groups,
        folds=images.folds,
        hashes=images.hashes,
        paths=images.paths,
        classes=model.classes,
        run=run,
        seed=model.config.train.seed,
    )


@torch.inference_mode()
def run_split(
    model: ProtoLeakNet,
    images: ImageColumns,
    *,
    batch_size: int = BATCH,
    advance: Advance | None = None,
) -> SplitOutput:
    """Outputs of the model in evaluation mode; its mode is left as it was."""
    if not len(images):
        return _empty(model)
    images.require(model.config.columns(training=False))
    training = model.training
    model.eval()
    parts = []
    for batch in images.batches(batch_size):
        output = model(batch)
        parts.append((output.embedding, output.logits, output.attention, *output.branches.values()))
        if advance is not None:
            advance(len(batch))
    model.train(training)
    vectors, logits, attention, *rest = (torch.cat(column) for column in zip(*parts, strict=True))
    extra = [None if values is None else values.cpu() for values in model.density(vectors)]
    branches = {name: values.cpu() for name, values in zip(model.branches, rest, strict=True)}
    return SplitOutput(vectors.cpu(), logits.cpu(), attention.cpu(), branches, *extra)


@torch.inference_mode()
def run_branch(
    branch: Branch, images: ImageColumns
) -> tuple[Float[Tensor, "image class"], Float[Tensor, "image step"]]:
    """Logits and attention of one branch alone, in evaluation mode, on the CPU."""
    training = branch.training
    branch.eval()
    found = [branch.classify(*branch.embed(batch)) for batch in images.batches(BATCH)]
    branch.train(training)
    logits = torch.cat([output.logits for output in found])
    attention = torch.cat([output.attention for output in found])
    return logits.cpu(), attention.cpu()


def _empty(model: ProtoLeakNet) -> SplitOutput:
    steps = len(model.config.latents.timesteps) if model.latents else 1
    classes = torch.empty(0, len(model.classes))
    vectors = torch.empty(0, sum(model.branches[name].width for name in model.weighted))
    return SplitOutput(
        vectors,
        classes,
        torch.empty(0, steps),
        dict.fromkeys(model.branches, classes),
        *model.density(vectors.to(model.device)),
    )
