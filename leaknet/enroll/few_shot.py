"""Selection of the images to enrol from, and of those held out for calibration."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from jaxtyping import Shaped

from leakcache.dataset.image_files import find_images
from leakcache.encoder.autoencoder import Encoder
from leakcache.errors import DataError
from leakcache.store.manifest import Encoding
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
