"""Adds a class to a trained model: its images; a source of its two-covariance model, or prototypes.

A branch with a two-covariance model scores the class by its likelihood ratio, in closed form; any
other branch by k-means prototypes on its frozen embedding. No trained weight changes, so the logits
of the old classes stay the same.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, Shaped
from scipy.special import log_softmax
from torch import Tensor

from leakcache.dataset.image_files import find_images
from leakcache.encoder.autoencoder import Encoder
from leakcache.errors import DataError, RunError
from leakcache.store.manifest import Encoding
from leaknet.calibration.calibration import cut_in_halves
from leaknet.calibration.temperature import fit_temperature
from leaknet.data.embeddings import Embeddings
from leaknet.model.branch import Branch, PrototypeHead
from leaknet.model.protoleaknet import ProtoLeakNet
from leaknet.scoring.encode_files import EncodedFile, encode_files

MIN_SHOTS = 3
"""Two images for the prototypes and one for calibration."""
VALIDATION = 0.3
"""Fraction of the images held out for calibration."""


def take_shots(
    encoder: Encoder,
    encoding: Encoding,
    folder: Path,
    shots: int | None,
    *,
    columns: Sequence[str],
) -> list[EncodedFile]:
    """Encode the images of a folder, or the first `shots` usable ones in hash order of the names.

    Returns:
        Usable and rejected files; the latter have a reason. A file with the content of an earlier
        one is rejected.

    Raises:
        DataError: the folder has fewer usable images than `shots` or than `MIN_SHOTS`.
    """
    candidates = find_images([str(folder)])
    paths = sorted(
        (p for p, reason in candidates if not reason), key=lambda path: _order(path.name)
    )
    files = [EncodedFile(path, reason=reason) for path, reason in candidates if reason]
    limit = len(paths) if shots is None else shots
    usable = 0
    while paths and usable < limit:
        batch, paths = paths[: limit - usable], paths[limit - usable :]
        files += encode_files(encoder, encoding, batch, columns=columns)
        files = without_repeats(files)
        usable = sum(not file.reason for file in files)
    needed = max(MIN_SHOTS, shots or 0)
    if usable < needed:
        reason = next((f" ({f.path.name}: {f.reason})" for f in files if f.reason), "")
        raise DataError(
            f"{folder} has {usable} usable image(s){reason}: enrolment needs {needed}; add images"
        )
    return files


def without_repeats(files: Sequence[EncodedFile]) -> list[EncodedFile]:
    """The same files; one with the content of an earlier one is rejected."""
    first: dict[str, EncodedFile] = {}
    for file in files:
        first.setdefault(file.sha256, file)
    return [_reject_repeat(file, first[file.sha256]) for file in files]


def fold_of_each(groups: Shaped[np.ndarray, " image"]) -> Shaped[np.ndarray, " image"]:
    """Fold of each image by prompt group: about `VALIDATION` of them "val", the rest "train".

    Raises:
        DataError: no group can be held out, because too few images would remain.
    """
    sizes = Counter(groups.tolist())
    held_out: list[str] = []
    for group in sorted(sizes, key=_order):
        count = sum(sizes[name] for name in held_out)
        enough = count >= VALIDATION * len(groups)
        if not enough and len(groups) - count - sizes[group] >= MIN_SHOTS - 1:
            held_out.append(group)
    if not held_out:
        raise DataError(
            f"the {len(groups)} images to enrol are of {len(sizes)} prompt group(s), so none "
            "can be held out for calibration: add images of other prompts (other file names)"
        )
    return np.where(np.isin(groups, held_out), "val", "train")


def _reject_repeat(file: EncodedFile, first: EncodedFile) -> EncodedFile:
    if file is first or file.reason:
        return file
    return replace(file, columns={}, reason=f"has the same content as {first.path.name}")


def _order(name: str) -> bytes:
    return hashlib.sha256(name.encode()).digest()


def learn(
    model: ProtoLeakNet, name: str, images: Embeddings, val: Embeddings
) -> tuple[ProtoLeakNet, Embeddings]:
    """A copy of the model with one more class, and the images' embeddings in folds train and val.

    Args:
        model: the model of the embeddings.
        name: of the new class.
        images: embeddings of that class, in the fold "open".
        val: the old classes' validation fold under the model.

    Raises:
        DataError: too few images, or all of one prompt.
        RunError: the model has a linear head.
    """
    folds = fold_of_each(images.groups)
    refuse_linear(model)
    vectors = images.vectors[folds == "train"]
    grown = with_class(model, name, vectors, fit_offset(model, vectors, val))
    return grown, replace(reclassified(grown, images), folds=folds)


Vectors = Float[np.ndarray, "image dimension"]

BATCH = 256


def with_class(
    model: ProtoLeakNet, name: str, vectors: Vectors, offset: float = 0.0
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
    refuse_linear(model)
    record, old = model.record(), model.state_dict()
    grown = ProtoLeakNet.from_record(
        replace(
            record,
            config=record.config.with_branches(model.weighted),
            classes=(*record.classes, name),
        )
    )
    state = {key: old[key] for key in grown.state_dict()}
    for branch, centres in _class_centres(model, vectors).items():
        key = f"{branch}.head.prototypes"
        state[key] = torch.cat([state[key], torch.from_numpy(centres).to(state[key])[None]])
    state["offsets"] = torch.cat([old["offsets"], old["offsets"].new_tensor([offset])])
    state["weights"] = old["weights"].new_tensor(list(model.weighted.values()))
    grown.load_state_dict(state)
    for branch, part in model.split(torch.from_numpy(vectors).to(model.weights)).items():
        grown.branches[branch].enrol(part)
    return grown.to(model.device).eval()


def refuse_linear(model: ProtoLeakNet) -> None:
    """Refuse a model with linear heads.

    Raises:
        RunError: in one line.
    """
    if model.config.head.prototypes == 0:
        raise RunError(
            "the run has a linear head (head.prototypes = 0), to which no class can be added "
            "without training: enrol into a run with prototypes"
        )


@torch.inference_mode()
def _class_centres(
    model: ProtoLeakNet, vectors: Vectors
) -> dict[str, Float[np.ndarray, "prototype part"]]:
    """Prototypes of a class of these embeddings, in each weighted branch."""
    parts = model.split(torch.from_numpy(vectors).to(model.weights))
    count = model.config.head.prototypes
    return {
        name: class_prototypes(np.asarray(model.branches[name].class_part(part).cpu()), count)
        for name, part in parts.items()
    }


def class_prototypes(vectors: Vectors, count: int) -> Float[np.ndarray, "prototype dimension"]:
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
    vectors, rows = torch.from_numpy(e.vectors), []
    for batch in torch.split(vectors, BATCH):
        outputs = model.heads(batch.to(model.device))
        rows.append({name: output.logits for name, output in outputs.items()})
    branches = {name: torch.cat([row[name] for row in rows]) for name in model.weighted}
    fused = model.fuse(branches)
    density, evidence = (
        None if column is None else column.cpu().numpy()
        for column in model.density(vectors.to(model.device))
    )
    return replace(
        e,
        logits=fused.cpu().numpy(),
        branches={name: logits.cpu().numpy() for name, logits in branches.items()},
        classes=model.classes,
        run="",
        density=density,
        evidence=evidence,
    )


def fit_offset(model: ProtoLeakNet, vectors: Vectors, val: Embeddings) -> float:
    """The constant added to the new class's logit: minimum class-balanced cross-entropy.

    k-means centres are closer to any image than trained prototypes are, so without an offset the
    new class takes almost every image (docs/LOG.md). The old images are the selection half of the
    validation fold; the other half still calibrates. Each new image is scored as one of a class of
    the other new images; with a single new image the offset is 0.

    Args:
        model: before the new class, with prototypes.
        vectors: h̄ of the new class's training images, before the gate.
        val: the old classes' validation fold under `model`.
    """
    if len(vectors) == 1:
        return 0.0
    old = cut_in_halves(val)[0] if len(set(val.groups.tolist())) > 1 else val
    temperature = fit_temperature(old.logits, old.targets)
    mine = _class_logits(model, old.vectors, vectors)
    known = _old_logits(model, np.concatenate([old.vectors, vectors]))
    new = np.concatenate([mine, _left_one_out(model, vectors)])
    targets = np.concatenate([old.targets, np.full(len(vectors), len(val.classes))])
    weights = 1 / np.bincount(targets)[targets]

    def loss(offset: float) -> float:
        logits = np.concatenate([known, new[:, None] + offset], axis=1)
        log_likelihoods = log_softmax(logits / temperature, axis=1)
        return -float(weights @ log_likelihoods[np.arange(len(targets)), targets])

    # The loss is convex. Beyond these bounds the class takes no image, or every image.
    margins = known.max(axis=1) - new
    bounds = float(margins.min()) - 1, float(margins.max()) + 1
    # Importing scipy.optimize costs a quarter of a second, which scoring need not pay.
    from scipy.optimize import minimize_scalar

    return float(minimize_scalar(loss, bounds=bounds, method="bounded").x)


def _left_one_out(model: ProtoLeakNet, vectors: Vectors) -> Float[np.ndarray, " image"]:
    """Logit of each image for its class, enrolled from the other images."""
    rows = [
        _class_logits(model, vectors[row : row + 1], np.delete(vectors, row, axis=0))
        for row in range(len(vectors))
    ]
    return np.concatenate(rows)


@torch.inference_mode()
def _class_logits(
    model: ProtoLeakNet, vectors: Vectors, images: Float[np.ndarray, "own dimension"]
) -> Float[np.ndarray, " image"]:
    """Logits of a class enrolled from `images`, without an offset."""
    total, centres = np.zeros(len(vectors)), _class_centres(model, images)
    own = model.split(torch.from_numpy(images).to(model.weights))
    for name, part in model.split(torch.from_numpy(vectors).to(model.weights)).items():
        branch = model.branches[name]
        logits = branch.source_logits(part, own[name])
        if logits is None:
            logits = _prototype_logits(branch, part, centres[name])
        total += model.weighted[name] * logits.double().cpu().numpy()
    return total


def _prototype_logits(
    branch: Branch,
    part: Float[Tensor, "image dimension"],
    centres: Float[np.ndarray, "prototype part"],
) -> Float[Tensor, " image"]:
    """Logits of one class with these prototypes, under the branch's gate and temperature."""
    assert isinstance(branch.head, PrototypeHead)
    read = branch.class_part(part)
    head = PrototypeHead(read.shape[1], 1, len(centres)).to(read)
    head.prototypes.copy_(torch.from_numpy(centres)[None])
    head.log_temperature.copy_(branch.head.log_temperature)
    gate = torch.ones_like(read) if branch.gate is None else branch.gate(read)
    logits: Tensor = head(read, gate)[0][:, 0]
    return logits


@torch.inference_mode()
def _old_logits(model: ProtoLeakNet, vectors: Vectors) -> Float[np.ndarray, "image class"]:
    logits = model.classify(torch.from_numpy(vectors).to(model.weights))
    return np.asarray(logits.cpu(), dtype=np.float64)
