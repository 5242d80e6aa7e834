"""How far a new class may reach: one constant added to its logit.

Prototypes put into the midst of embeddings are nearer to any image than those that training has
placed, so that a class added without more would win almost every image (docs/LOG.md).
"""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Float
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax

from leaknet.calibration.split_half import cut_in_halves
from leaknet.calibration.temperature import fit_temperature
from leaknet.data.embeddings import Embeddings
from leaknet.enroll.prototypes import class_prototypes, known_vectors, prototype_head
from leaknet.model.head import PrototypeHead
from leaknet.model.protoleaknet import ProtoLeakNet


def fit_offset(
    model: ProtoLeakNet, vectors: Float[np.ndarray, "image dimension"], val: Embeddings
) -> float:
    """The constant under which old and new images are likeliest to be named right.

    Every class counts alike, however many images it has. Old images are those of the choosing
    half of the validation fold, so that the other half still calibrates; each new image is scored
    by prototypes that were made without it.

    Args:
        model: before the new class, with prototypes.
        vectors: h̄ of the new class's training images, before the gate; two or more.
        val: the old classes' validation fold under `model`.
    """
    old = cut_in_halves(val)[0] if len(set(val.groups.tolist())) > 1 else val
    temperature = fit_temperature(old.logits, old.targets)
    vectors = known_vectors(model, vectors)
    mine = _class_logits(model, old.vectors, class_prototypes(vectors, _count(model)))
    images = np.concatenate([old.vectors, vectors])
    known = _old_logits(model, images)
    new = np.concatenate([mine, _left_one_out(model, vectors)])
    targets = np.concatenate([old.targets, np.full(len(vectors), len(val.classes))])
    weights = 1 / np.bincount(targets)[targets]

    def loss(offset: float) -> float:
        logits = np.concatenate([known, new[:, None] + offset], axis=1)
        found = log_softmax(logits / temperature, axis=1)[np.arange(len(targets)), targets]
        return -float(weights @ found)

    # The loss is convex, and beyond these ends the class takes no image, or every one.
    margins = known.max(axis=1) - new
    ends = float(margins.min()) - 1, float(margins.max()) + 1
    return float(minimize_scalar(loss, bounds=ends, method="bounded").x)


def _count(model: ProtoLeakNet) -> int:
    return model.config.model.prototypes


def _left_one_out(
    model: ProtoLeakNet, vectors: Float[np.ndarray, "image dimension"]
) -> Float[np.ndarray, " image"]:
    """The logit of each image's own class, by prototypes of the other images."""
    rows = []
    for row in range(len(vectors)):
        others = class_prototypes(np.delete(vectors, row, axis=0), _count(model))
        rows.append(_class_logits(model, vectors[row : row + 1], others))
    return np.concatenate(rows)


@torch.inference_mode()
def _class_logits(
    model: ProtoLeakNet,
    vectors: Float[np.ndarray, "image dimension"],
    centres: Float[np.ndarray, "prototype dimension"],
) -> Float[np.ndarray, " image"]:
    """Logits of one class with these prototypes, under the model's gate and temperature."""
    old = prototype_head(model)
    head = PrototypeHead(vectors.shape[1], 1, len(centres)).to(old.prototypes)
    head.prototypes.copy_(torch.from_numpy(centres)[None])
    head.log_temperature.copy_(old.log_temperature)
    pooled = model.known_part(torch.from_numpy(vectors).to(old.prototypes))
    gate = torch.ones_like(pooled) if model.gate is None else model.gate(pooled)
    return np.asarray(head(pooled, gate)[0][:, 0].cpu(), dtype=np.float64)


@torch.inference_mode()
def _old_logits(
    model: ProtoLeakNet, vectors: Float[np.ndarray, "image dimension"]
) -> Float[np.ndarray, "image class"]:
    pooled = torch.from_numpy(vectors).to(next(model.parameters()))
    attention = pooled.new_ones(len(pooled), 1)
    return np.asarray(model.classify(pooled, attention).logits.cpu(), dtype=np.float64)
