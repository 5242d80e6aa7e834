"""One more class for a trained network: prototypes by k-means on its frozen embedding.

No weight that was trained changes, so the logits of the old classes stay what they were; only
the new one can win images from them.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from jaxtyping import Float
from sklearn.cluster import KMeans

from leakcache.errors import RunError
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
        offset: added to its logit; see `leaknet.enroll.fold_enroll_offset`.

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
