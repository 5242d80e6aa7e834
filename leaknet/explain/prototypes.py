"""Which prototype decides for the first class and which for the second, and by which features.

With the gate w, the margin of a branch is that of its nearest prototypes plus what the others add:

    logit_a - logit_b = Σ_i w_i [(h̄_i - p_b,i)² - (h̄_i - p_a,i)²] + rest

p_a and p_b are the nearest prototypes of the two classes (the paper, Eq. 14-15).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from leaknet.data.embeddings import Embeddings
from leaknet.explain.nearest import Neighbour, data_root, nearest_images
from leaknet.model.branch import Branch
from leaknet.model.head import PrototypeHead
from leaknet.model.protoleaknet import ProtoLeakNet


@dataclass(frozen=True)
class Prototypes:
    """How the prototypes of one branch decide.

    Attributes:
        margin: logit of the first class less that of the second, of this branch alone.
        responsibilities: of the prototypes of the first and of the second class; each sums to 1.
        nearest: number of the nearest prototype of each, from 0.
        features: terms of the margin, one for each feature; positive for the first class.
        rest: what the other prototypes add; `features` and this sum to the margin.
        neighbours: training images nearest to the first class's prototype, the nearest first.
    """

    margin: float
    responsibilities: tuple[tuple[float, ...], tuple[float, ...]]
    nearest: tuple[int, int]
    features: Float[np.ndarray, " dimension"]
    rest: float
    neighbours: tuple[Neighbour, ...]


@torch.inference_mode()
def prototypes_of(
    branch: Branch,
    embedding: Float[Tensor, "1 dimension"],
    pair: tuple[int, int],
    nearby: Callable[[tuple[int, int]], tuple[Neighbour, ...]],
) -> Prototypes | None:
    """How the prototypes decide between two classes; None for a branch with a linear head.

    Args:
        branch: of the model.
        embedding: of the image in this branch.
        pair: numbers of the first and of the second class.
        nearby: gives the training images near a prototype, from the numbers of its class and of
            itself; see `neighbours`.
    """
    if not isinstance(branch.head, PrototypeHead):
        return None
    output = branch.classify(embedding, embedding.new_ones(1, 1))
    distances = output.distances[0].double()
    shares = (-distances / branch.head.temperature.double()).softmax(dim=1)
    nearest = tuple(int(distances[c].argmin()) for c in pair)
    read, gate = branch.class_part(embedding)[0].double(), output.gate[0].double()
    terms = [
        gate * (read - branch.head.prototypes[c, m].double()).square()
        for c, m in zip(pair, nearest, strict=True)
    ]
    features = (terms[1] - terms[0]).cpu().numpy()
    margin = float(output.logits[0, pair[0]].double() - output.logits[0, pair[1]].double())
    first, second = (tuple(shares[c].tolist()) for c in pair)
    rest, near = margin - float(features.sum()), nearby((pair[0], nearest[0]))
    return Prototypes(margin, (first, second), (nearest[0], nearest[1]), features, rest, near)


@torch.inference_mode()
def neighbours(
    model: ProtoLeakNet,
    name: str,
    embedding: Float[Tensor, "1 dimension"],
    prototype: tuple[int, int],
    train: Embeddings,
) -> tuple[Neighbour, ...]:
    """Training images of a prototype's class, the nearest to the prototype first.

    Args:
        model: of the run.
        name: of the branch.
        embedding: of the explained image in this branch, whose gate weighs the features.
        prototype: number of its class and its number in the class.
        train: of the run.
    """
    branch = model.branches[name]
    assert isinstance(branch.head, PrototypeHead)
    own = train.take(train.targets == prototype[0])
    vectors = torch.from_numpy(own.vectors).to(model.device)
    read = branch.class_part(model.split(vectors)[name])
    gate = branch.classify(embedding, embedding.new_ones(1, 1)).gate
    point = branch.head.prototypes[prototype]
    distances = (gate * (read - point).square()).sum(dim=1).cpu().numpy()
    return nearest_images(data_root(model), own, distances)
