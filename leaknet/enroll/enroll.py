"""Enrol a generator: encode, embed, prototypes, detector refits, a new version, a report."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float

from leakcache.errors import DataError, RunError
from leaknet.calibration import calibrate
from leaknet.data.embeddings import Embeddings
from leaknet.detectors import Detector, DiagonalMahalanobis, GlobalKDE
from leaknet.enroll.few_shot import fold_of_each, take_shots
from leaknet.enroll.prototypes import fit_offset, prototype_head, reclassified, with_class
from leaknet.enroll.versions import next_version, write_version
from leaknet.evaluation.closed_set import concatenate
from leaknet.files import save_tensors
from leaknet.metrics import closed_values
from leaknet.metrics.closed_set import correct
from leaknet.model.inference import embed
from leaknet.model.protoleaknet import WEIGHTS, ProtoLeakNet
from leaknet.scoring.encode_files import EncodedFile, as_split, encoding_of, load_encoder
from leaknet.scoring.fitted_detectors import fit_all, save_scorers
from leaknet.training.run_folder import RunFolder

KINDS: tuple[type[Detector], ...] = (GlobalKDE, DiagonalMahalanobis)


@dataclass(frozen=True)
class OldClasses:
    """What a new class did to those that were there before, on held-out images of theirs.

    Attributes:
        fold: `test` where the run was scored, else `val`.
        before: top1, balanced and macro_auc among the old classes.
        after: the same with the new class among the answers.
        taken: share of these images that now go to the new class.
    """

    fold: str
    before: dict[str, float]
    after: dict[str, float]
    taken: float

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return vars(self)


@dataclass(frozen=True)
class Enrolment:
    """What became of an enrolment.

    Attributes:
        run: the new version.
        origin: the run it was made from, which is as it was.
        name: of the new class.
        images: how many of its images went into each fold.
        rejects: path and reason of files that were not used.
        found: share of its validation images that are given its name.
        old: what it did to the classes that were there before.
    """

    run: Path
    origin: Path
    name: str
    images: dict[str, int]
    rejects: tuple[tuple[str, str], ...]
    found: float
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
            "new": {"val_top1": self.found},
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
        images: folder with images that it made.
        shots: how many to use; all, if None.
        vae: where the run's autoencoder lies now, if not where it was.
        device: where to encode and embed; the processor, if None.

    Raises:
        RunError: the run is incomplete, knows that name already, or has a linear head.
        DataError: too few images, of too few prompts, or one that the run has already.
        WeightsError: the autoencoder of the run is not on this machine.
        ScoringError: an embedding is not finite.
    """
    run, where = RunFolder(folder), device or torch.device("cpu")
    model = run.load_model(where)
    _check_name(run, model, name)
    known = _known(run)
    encoding = encoding_of(model)
    encoder = load_encoder(encoding, vae, str(where))
    files = take_shots(encoder, encoding, images, shots, features=model.config.features)
    usable = [file for file in files if not file.reason]
    _refuse_known(known, usable)
    images_of = embed(model, as_split(usable, "open", name))
    grown, new = learn(model, name, images_of, known.select("val"))
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
    write_version(target, lambda place: _fill(place, run, grown, known, new), content)
    return result


def learn(
    model: ProtoLeakNet, name: str, images: Embeddings, val: Embeddings
) -> tuple[ProtoLeakNet, Embeddings]:
    """A copy of the model that knows one class more, and the images by it, in folds train and val.

    Args:
        model: whose embeddings they are.
        name: of the new class.
        images: of that class, in the fold "open".
        val: the old classes' validation fold under the model.

    Raises:
        DataError: too few images, or all of one prompt.
        RunError: the model has a linear head.
    """
    folds = fold_of_each(images.groups)
    prototype_head(model)
    vectors = images.vectors[folds == "train"]
    grown = with_class(model, name, vectors, fit_offset(model, vectors, val))
    return grown, replace(reclassified(grown, images), folds=folds)


def _check_name(run: RunFolder, model: ProtoLeakNet, name: str) -> None:
    if name in model.classes:
        raise RunError(f"{run.path} already knows {name}: enrol it under another name")
    if not name.strip() or "\n" in name:
        raise RunError(f"{name!r} cannot be the name of a generator: give it a word")


def _known(run: RunFolder) -> Embeddings:
    known = Embeddings.load(run.embeddings)
    if known.run != run.fingerprint():
        raise RunError(
            f"{run.embeddings} was made with other weights than {run.weights}: "
            f"run `leak score --run {run.path}` first"
        )
    return known


def _refuse_known(known: Embeddings, files: Sequence[EncodedFile]) -> None:
    rows = {sha256: row for row, sha256 in enumerate(known.hashes.tolist())}
    repeated = [file for file in files if file.sha256 in rows]
    if repeated:
        row = rows[repeated[0].sha256]
        raise DataError(
            f"{repeated[0].path} is in the run already, as {known.paths[row]} of "
            f"{known.labels[row]} ({len(repeated)} such images in all): take them out"
        )


def _fill(
    place: Path, run: RunFolder, grown: ProtoLeakNet, known: Embeddings, new: Embeddings
) -> None:
    """Write all files of a version into an empty folder."""
    grown.record().write(place)
    save_tensors(place / WEIGHTS, grown.state_dict())
    if run.history.is_file():
        shutil.copyfile(run.history, place / run.history.name)
    version = RunFolder(place)
    digest = version.fingerprint()
    everything = replace(concatenate([reclassified(grown, known), new]), run=digest)
    everything.save(version.embeddings)
    detectors = fit_all(KINDS, everything)
    save_scorers(place, detectors, digest)
    calibrate(place, detectors, everything)


def recall(images: Embeddings) -> float:
    """Share of images that are given their own class."""
    return float(correct(images.logits, images.targets).mean())


def old_classes(known: Embeddings, grown: ProtoLeakNet) -> OldClasses:
    """Judge the old classes before and after, on the test fold if the run has embedded it."""
    fold = "test" if (known.folds == "test").any() else "val"
    held = known.select(fold)
    logits = reclassified(grown, held).logits
    return OldClasses(
        fold,
        _figures(held.logits, held.targets),
        _figures(logits, held.targets),
        float((logits.argmax(axis=1) == logits.shape[1] - 1).mean()),
    )


def _figures(logits: Float[np.ndarray, "image class"], targets: np.ndarray) -> dict[str, float]:
    values = closed_values(logits, targets)
    return {key: float(values[key][0]) for key in ("top1", "balanced", "macro_auc")}


def _sources(new: Embeddings) -> dict[str, Any]:
    rows = zip(new.paths.tolist(), new.hashes.tolist(), new.folds.tolist(), strict=True)
    return {"sources": [{"path": p, "sha256": h, "fold": f} for p, h, f in rows]}
