"""Enrols a generator: encodes and embeds its images, adds a class, refits the detectors."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Shaped

from leakcache.dataset.image_files import find_images
from leakcache.encoder.autoencoder import Encoder
from leakcache.errors import DataError, RunError
from leakcache.store.manifest import Encoding
from leaknet.calibration import calibrate
from leaknet.checksums import read_text
from leaknet.data.embeddings import Embeddings, concatenate
from leaknet.detectors import Detector, DiagonalMahalanobis, GlobalKDE
from leaknet.enroll.prototypes import fit_offset, reclassified, refuse_linear, with_class
from leaknet.enroll.versions import next_version, write_version
from leaknet.files import read_metadata, save_tensors, write_text
from leaknet.metrics import closed_values
from leaknet.metrics.closed_set import correct
from leaknet.model.inference import embed
from leaknet.model.protoleaknet import WEIGHTS, ProtoLeakNet
from leaknet.scoring.encode_files import (
    EncodedFile,
    as_split,
    encode_files,
    encoding_of,
    load_encoder,
)
from leaknet.scoring.fitted_detectors import fit_all, save_scorers
from leaknet.scoring.image_facts import ImageFacts
from leaknet.scoring.image_range import read_range, write_range
from leaknet.scoring.relations import learn_families
from leaknet.training.run_folder import RunFolder

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


KINDS: tuple[type[Detector], ...] = (GlobalKDE, DiagonalMahalanobis)


@dataclass(frozen=True)
class OldClasses:
    """Effect of the new class on held-out images of the old classes.

    Attributes:
        fold: `test` if the run has test embeddings, else `val`.
        before: top1, balanced and macro_auc without the new class.
        after: the same with the new class.
        lost: fraction of these images that the model now assigns to the new class.
    """

    fold: str
    before: dict[str, float]
    after: dict[str, float]
    lost: float

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return vars(self)


@dataclass(frozen=True)
class Enrolment:
    """Result of an enrolment.

    Attributes:
        run: the new version.
        origin: the run it was made from, unchanged.
        name: of the new class.
        images: number of its images per fold.
        rejects: path and reason of unusable files.
        recall: fraction of its validation images that the model names right.
        old: effect on the old classes.
    """

    run: Path
    origin: Path
    name: str
    images: dict[str, int]
    rejects: tuple[tuple[str, str], ...]
    recall: float
    old: OldClasses

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        rejects = [{"path": path, "reason": reason} for path, reason in self.rejects]
        return {
            "run": str(self.run),
            "from": str(self.origin),
            "name": self.name,
            "images": self.images,
            "rejects": rejects,
            "new": {"val_top1": self.recall},
            "old": self.old.as_dict(),
        }


def enroll(
    folder: Path,
    name: str,
    images: Path,
    *,
    shots: int | None = None,
    vae: str | None = None,
    device: torch.device | None = None,
) -> Enrolment:
    """Add a generator to a run as a new version of it.

    Args:
        folder: the run, or a version of it.
        name: of the generator.
        images: folder with images of this generator.
        shots: number of images to use; all if None.
        vae: the run's autoencoder, if it has moved since training.
        device: where to encode and embed; the CPU if None.

    Raises:
        RunError: the run is incomplete, has a class of this name, or has a linear head.
        DataError: too few images or prompts, or an image that the run already has.
        WeightsError: the run's autoencoder is not on this machine.
        ScoringError: an embedding is not finite.
    """
    run, device = RunFolder(folder), device or torch.device("cpu")
    model = run.load_model(device)
    _check_name(run, model, name)
    known = _known(run)
    encoding = encoding_of(model)
    encoder = load_encoder(encoding, vae, str(device))
    files = take_shots(
        encoder, encoding, images, shots, columns=model.config.columns(training=False)
    )
    usable = [file for file in files if not file.reason]
    _check_images(known, usable)
    embedded = embed(model, as_split(usable, "open", name))
    grown, new = learn(model, name, embedded, known.select("val"))
    target = next_version(folder)
    rejects = tuple((str(file.path), file.reason) for file in files if file.reason)
    result = Enrolment(
        target,
        folder,
        name,
        {fold: len(new.select(fold)) for fold in ("train", "val")},
        rejects,
        recall(new.select("val")),
        old_classes(known, grown),
    )
    content = {**result.as_dict(), "from": folder.name, "from_model": known.run, **_sources(new)}
    facts = [file.facts for file in usable]
    write_version(target, lambda target: _fill(target, run, grown, known, new, facts), content)
    return result


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


def _check_name(run: RunFolder, model: ProtoLeakNet, name: str) -> None:
    if name in model.classes:
        raise RunError(f"{run.path} already has a class {name}: enrol it under another name")
    if not name.strip() or "\n" in name:
        raise RunError(f"{name!r} is not a generator name: use one non-empty line")


def _known(run: RunFolder) -> Embeddings:
    known = Embeddings.load(run.embeddings)
    if known.run != run.fingerprint():
        raise RunError(
            f"{run.embeddings} was computed with other weights than {run.weights}: "
            f"run `leak score --run {run.path}` first"
        )
    return known


def _check_images(known: Embeddings, files: Sequence[EncodedFile]) -> None:
    rows = {sha256: row for row, sha256 in enumerate(known.hashes.tolist())}
    repeated = [file for file in files if file.sha256 in rows]
    if repeated:
        row = rows[repeated[0].sha256]
        raise DataError(
            f"{repeated[0].path} is in the run already, as {known.paths[row]} of "
            f"{known.labels[row]} ({len(repeated)} such images in all): remove them"
        )


def _fill(
    folder: Path,
    run: RunFolder,
    grown: ProtoLeakNet,
    known: Embeddings,
    new: Embeddings,
    images: Sequence[ImageFacts],
) -> None:
    """Write all files of a version into an empty folder."""
    grown.record().write(folder)
    save_tensors(folder / WEIGHTS, grown.state_dict(), read_metadata(run.weights))
    if run.history.is_file():
        write_text(folder / run.history.name, read_text(run.history))
    version = RunFolder(folder)
    digest = version.fingerprint()
    everything = replace(concatenate([reclassified(grown, known), new]), run=digest)
    everything.save(version.embeddings)
    detectors = fit_all(KINDS, everything)
    save_scorers(folder, detectors, digest)
    calibrate(folder, detectors, everything)
    learn_families(folder, grown, everything)
    if (former := read_range(run.path)) is not None:
        write_range(folder, images, former)


def recall(images: Embeddings) -> float:
    """Fraction of images that the model names right."""
    return float(correct(images.logits, images.targets).mean())


def old_classes(known: Embeddings, grown: ProtoLeakNet) -> OldClasses:
    """Evaluate the old classes before and after, on the test fold if it has embeddings."""
    fold = "test" if (known.folds == "test").any() else "val"
    held_out = known.select(fold)
    logits = reclassified(grown, held_out).logits
    return OldClasses(
        fold,
        _figures(held_out.logits, held_out.targets),
        _figures(logits, held_out.targets),
        float((logits.argmax(axis=1) == logits.shape[1] - 1).mean()),
    )


def _figures(logits: Float[np.ndarray, "image class"], targets: np.ndarray) -> dict[str, float]:
    values = closed_values(logits, targets)
    return {key: float(values[key][0]) for key in ("top1", "balanced", "macro_auc")}


def _sources(new: Embeddings) -> dict[str, Any]:
    rows = zip(new.paths.tolist(), new.hashes.tolist(), new.folds.tolist(), strict=True)
    return {"sources": [{"path": p, "sha256": h, "fold": f} for p, h, f in rows]}
