"""One more class for a trained network: prototypes by k-means on its frozen embedding.

No weight that was trained changes, so the logits of the old classes stay what they were; only
the new one can win images from them.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from jaxtyping import Float
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax
from sklearn.cluster import KMeans

from leakcache.errors import RunError
from leaknet.calibration.split_half import cut_in_halves
from leaknet.calibration.temperature import fit_temperature
from leaknet.data.embeddings import Embeddings
from leaknet.model.head import PrototypeHead
from leaknet.model.protoleaknet import ProtoLeakNet

BATCH = 256


def with_class(
    model: ProtoLeakNet,
    name: str,
    vectors: Float[np.ndarray, "image dimension"],
    offset: float = 0.0,
) -> ProtoLeakNet:
    """A copy of the model that also knows the generator of these pooled embeddings.

    Args:
        model: a trained one, with prototypes.
        name: of the new class, which becomes the last one.
        vectors: h̄ of its training images, before the gate; one or more.
        offset: added to its logit; see `leaknet.enroll.prototypes`.

    Raises:
        RunError: the model has a linear head, which cannot grow without training.
    """
    prototype_head(model)
    record = model.record()
    grown = ProtoLeakNet.from_record(replace(record, classes=(*record.classes, name)))
    old = model.state_dict()
    centres = class_prototypes(known_vectors(model, vectors), model.config.model.prototypes)
    added = torch.from_numpy(centres).to(old["head.prototypes"])
    state = {
        **old,
        "head.prototypes": torch.cat([old["head.prototypes"], added[None]]),
        "head.offsets": torch.cat([old["head.offsets"], added.new_tensor([offset])]),
    }
    grown.load_state_dict(state)
    return grown.to(added.device).eval()


def prototype_head(model: ProtoLeakNet) -> PrototypeHead:
    """The head of a model to which classes can be added.

    Raises:
        RunError: it is linear, and cannot grow without training.
    """
    if not isinstance(model.head, PrototypeHead):
        raise RunError(
            "the run has a linear head (model.prototypes = 0), to which no class can be added "
            "without training: enrol into a run with prototypes"
        )
    return model.head


@torch.inference_mode()
def known_vectors(
    model: ProtoLeakNet, vectors: Float[np.ndarray, "image dimension"]
) -> Float[np.ndarray, "image dimension"]:
    """Of pooled embeddings the part that prototypes are compared with."""
    pooled = torch.from_numpy(vectors).to(next(model.parameters()))
    return np.asarray(model.known_part(pooled).cpu())


def class_prototypes(
    vectors: Float[np.ndarray, "image dimension"], count: int
) -> Float[np.ndarray, "prototype dimension"]:
    """`count` k-means centres, seeded; with fewer different images each is repeated in turn."""
    distinct = np.unique(vectors.astype(np.float64), axis=0)
    if len(distinct) <= count:
        return distinct[np.arange(count) % len(distinct)]
    found = KMeans(count, n_init=10, random_state=0).fit(vectors.astype(np.float64))
    return np.asarray(found.cluster_centers_, dtype=np.float64)


@torch.inference_mode()
def reclassified(model: ProtoLeakNet, e: Embeddings) -> Embeddings:
    """The same embeddings with the logits of a model that has grown since.

    Args:
        model: differs from the one that made the embeddings in its head alone.
        e: pooled embeddings, before the gate.
    """
    device = next(model.parameters()).device
    vectors, attention = torch.from_numpy(e.vectors), torch.from_numpy(e.attention)
    rows = []
    for start in range(0, len(e), BATCH):
        batch = slice(start, start + BATCH)
        output = model.classify(vectors[batch].to(device), attention[batch].to(device))
        rows.append(output.logits.cpu())
    return replace(
        e,
        logits=torch.cat(rows).numpy() if rows else np.empty((0, len(model.classes))),
        classes=model.classes,
        run="",
    )


# How far a new class may reach: one constant added to its logit.
#
# Prototypes put into the midst of embeddings are nearer to any image than those that training has
# placed, so that a class added without more would win almost every image (docs/LOG.md).


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
