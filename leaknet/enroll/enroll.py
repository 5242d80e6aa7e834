"""Enrols a generator: adds a class, refits the detectors, and writes the run as a new version.

RUN@2, RUN@3, ... are complete run folders beside RUN, which does not change. enrolment.json of a
version records the enrolled generator, its images and the run that the version was made from.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float

from leakcache.errors import DataError, RunError
from leakcache.files import locked, parse_json
from leaknet.calibration import calibrate
from leaknet.checksums import read_text, was_written
from leaknet.data.embeddings import Embeddings, concatenate
from leaknet.detectors import Detector, DiagonalMahalanobis, GlobalKDE
from leaknet.enroll.new_class import learn, reclassified, take_shots
from leaknet.files import read_metadata, save_tensors, write_json, write_text
from leaknet.metrics import closed_values
from leaknet.metrics.values import correct
from leaknet.model.inference import embed
from leaknet.model.protoleaknet import WEIGHTS, ProtoLeakNet
from leaknet.scoring.encode_files import EncodedFile, as_split, encoding_of, load_encoder
from leaknet.scoring.families import learn_families
from leaknet.scoring.run_embeddings import fit_all, read_range, save_scorers, write_range
from leaknet.scoring.scores import ImageFacts
from leaknet.training.run_folder import RunFolder

FILE = "enrolment.json"
_NUMBERED = re.compile(r"(?P<stem>.+)@(?P<number>\d+)")


def next_version(run: Path) -> Path:
    """Folder of the next version of a run; for a version, of the run it belongs to."""
    base = _base(run)
    return base.with_name(f"{base.name}@{max(_versions(base), default=1) + 1}")


def write_version(folder: Path, fill: Callable[[Path], object], content: dict[str, Any]) -> None:
    """Write a version, complete or not at all.

    Args:
        folder: from `next_version`.
        fill: writes the run's files into an empty folder.
        content: of enrolment.json.

    Raises:
        RunError: it cannot be written.
        CacheError: another process writes a version.
    """
    partial = folder.with_name(f".{folder.name}.partial")
    try:
        with locked(folder.parent):
            if folder.exists():
                raise RunError(f"{folder} was written by another process: run the command again")
            shutil.rmtree(partial, ignore_errors=True)
            partial.mkdir()
            fill(partial)
            write_json(partial / FILE, content)
            partial.rename(folder)
    except OSError as error:
        raise RunError(f"{folder} cannot be written: {error.strerror or error}") from error


def undo(run: Path) -> tuple[Path, Path]:
    """Remove a version: `run` itself if it is one, else its newest version.

    Returns:
        The removed folder, and the run that the version was made from.

    Raises:
        RunError: the run has no version, or the folder cannot be removed.
    """
    target = run if (run / FILE).is_file() else None
    if target is None and (numbers := _versions(run)):
        target = run.with_name(f"{run.name}@{max(numbers)}")
    if target is None:
        if was_written(run / FILE):
            raise RunError(f"{run / FILE} is missing: restore it, or delete the folder by hand")
        raise RunError(f"{run} has no enrolled generator to undo")
    origin = target.with_name(read_enrolment(target)["from"])
    removed = target.with_name(f".{target.name}.removed")
    try:
        target.rename(removed)
        shutil.rmtree(removed)
    except OSError as error:
        raise RunError(f"{target} cannot be removed: {error.strerror or error}") from error
    return target, origin


def read_enrolment(folder: Path) -> dict[str, Any]:
    """Content of a version's enrolment.json; raises RunError if it cannot be read."""
    try:
        content: dict[str, Any] = parse_json(read_text(folder / FILE))
        folder.with_name(content["from"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise RunError(
            f"{folder / FILE} cannot be read ({error!r}): delete the folder by hand"
        ) from error
    return content


def _base(run: Path) -> Path:
    match = _NUMBERED.fullmatch(run.name)
    return run.with_name(match["stem"]) if match and (run / FILE).is_file() else run


def _versions(base: Path) -> list[int]:
    """Numbers of the versions of a run, unordered."""
    folders = (path for path in base.parent.glob("*@*") if (path / FILE).is_file())
    matches = (_NUMBERED.fullmatch(path.name) for path in folders)
    return [int(m["number"]) for m in matches if m and m["stem"] == base.name]


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
