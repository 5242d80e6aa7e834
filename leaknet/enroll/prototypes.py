"""Adds a class to a trained model: k-means prototypes on its frozen embedding, and an offset.

No trained weight changes, so the logits of the old classes stay the same.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from jaxtyping import Float
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax

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
    """A copy of the model with one more class.

    Args:
        model: a trained model with prototypes.
        name: of the new class, which becomes the last one.
        vectors: pooled embeddings h̄ of its training images, before the gate; one or more.
        offset: added to its logit, from `fit_offset`.

    Raises:
        RunError: the model has a linear head.
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
    """The prototype head of a model; raises RunError for a linear head."""
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
    """The part of pooled embeddings that the prototypes use."""
    pooled = torch.from_numpy(vectors).to(next(model.parameters()))
    return np.asarray(model.known_part(pooled).cpu())


def class_prototypes(
    vectors: Float[np.ndarray, "image dimension"], count: int
) -> Float[np.ndarray, "prototype dimension"]:
    """`count` seeded k-means centres; with fewer distinct images, these are repeated in turn."""
    distinct = np.unique(vectors.astype(np.float64), axis=0)
    if len(distinct) <= count:
        return distinct[np.arange(count) % len(distinct)]
    # Importing scikit-learn costs a second, which scoring need not pay.
    from sklearn.cluster import KMeans

    kmeans = KMeans(count, n_init=10, random_state=0).fit(vectors.astype(np.float64))
    return np.asarray(kmeans.cluster_centers_, dtype=np.float64)


@torch.inference_mode()
def reclassified(model: ProtoLeakNet, e: Embeddings) -> Embeddings:
    """The same embeddings with the logits of another head.

    Args:
        model: equal to the one that computed the embeddings except for its head.
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


def fit_offset(
    model: ProtoLeakNet, vectors: Float[np.ndarray, "image dimension"], val: Embeddings
) -> float:
    """The constant added to the new class's logit: minimum class-balanced cross-entropy.

    k-means centres are closer to any image than trained prototypes are, so without an offset the
    new class takes almost every image (docs/LOG.md). The old images are the selection half of the
    validation fold; the other half still calibrates. Each new image is scored by prototypes of
    the other new images.

    Args:
        model: before the new class, with prototypes.
        vectors: h̄ of the new class's training images, before the gate; two or more.
        val: the old classes' validation fold under `model`.
    """
    old = cut_in_halves(val)[0] if len(set(val.groups.tolist())) > 1 else val
    temperature = fit_temperature(old.logits, old.targets)
    vectors = known_vectors(model, vectors)
    old_scores = _class_logits(model, old.vectors, class_prototypes(vectors, _count(model)))
    images = np.concatenate([old.vectors, vectors])
    known = _old_logits(model, images)
    new = np.concatenate([old_scores, _left_one_out(model, vectors)])
    targets = np.concatenate([old.targets, np.full(len(vectors), len(val.classes))])
    weights = 1 / np.bincount(targets)[targets]

    def loss(offset: float) -> float:
        logits = np.concatenate([known, new[:, None] + offset], axis=1)
        log_likelihoods = log_softmax(logits / temperature, axis=1)
        return -float(weights @ log_likelihoods[np.arange(len(targets)), targets])

    # The loss is convex. Beyond these bounds the class takes no image, or every image.
    margins = known.max(axis=1) - new
    bounds = float(margins.min()) - 1, float(margins.max()) + 1
    return float(minimize_scalar(loss, bounds=bounds, method="bounded").x)


def _count(model: ProtoLeakNet) -> int:
    return model.config.model.prototypes


def _left_one_out(
    model: ProtoLeakNet, vectors: Float[np.ndarray, "image dimension"]
) -> Float[np.ndarray, " image"]:
    """Logit of each image for its class, with prototypes of the other images."""
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
    """Logits of one class with these prototypes, with the model's gate and temperature."""
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
