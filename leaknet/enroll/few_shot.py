"""Which images a generator is enrolled from, and which of them are kept for calibration."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from jaxtyping import Shaped

from leakcache.encoder.autoencoder import Encoder
from leakcache.errors import DataError
from leakcache.store.manifest import Encoding
from leaknet.config import FeatureConfig
from leaknet.scoring.encode_files import EncodedFile, encode_files, find_images

LEAST = 3
"""Two to learn a class from and one to calibrate it with."""
VALIDATION = 0.3


def take_shots(
    encoder: Encoder,
    encoding: Encoding,
    folder: Path,
    shots: int | None,
    *,
    features: FeatureConfig,
) -> list[EncodedFile]:
    """Encode the images of a folder, or as many usable ones as asked for, in a seeded order.

    What was tried and refused is among them, with its reason. A file with the content of an
    earlier one is refused.

    Raises:
        DataError: the folder holds fewer usable images than asked for, or than `LEAST`.
    """
    found = find_images([str(folder)])
    paths = sorted(
        (path for path, reason in found if not reason), key=lambda path: _draw(path.name)
    )
    files = [EncodedFile(path, reason=reason) for path, reason in found if reason]
    wanted = len(paths) if shots is None else shots
    usable = 0
    while paths and usable < wanted:
        batch, paths = paths[: wanted - usable], paths[wanted - usable :]
        files += encode_files(encoder, encoding, batch, features=features)
        files = without_repeats(files)
        usable = sum(not file.reason for file in files)
    if usable < max(LEAST, shots or 0):
        refused = next((f" ({f.path.name}: {f.reason})" for f in files if f.reason), "")
        raise DataError(
            f"{folder} has {usable} usable image(s){refused}: enrolment needs "
            f"{max(LEAST, shots or 0)}"
        )
    return files


def without_repeats(files: Sequence[EncodedFile]) -> list[EncodedFile]:
    """The same files; one with the content of an earlier one is refused."""
    first: dict[str, EncodedFile] = {}
    for file in files:
        first.setdefault(file.sha256, file)
    return [_refuse_repeat(file, first[file.sha256]) for file in files]


def fold_of_each(groups: Shaped[np.ndarray, " image"]) -> Shaped[np.ndarray, " image"]:
    """Fold of each image, whole prompt groups: about 0.3 of them "val", the rest "train".

    Raises:
        DataError: no group can be held back, because too few images would be left.
    """
    sizes = Counter(groups.tolist())
    held: list[str] = []
    for group in sorted(sizes, key=_draw):
        count = sum(sizes[name] for name in held)
        enough = count >= VALIDATION * len(groups)
        if not enough and len(groups) - count - sizes[group] >= LEAST - 1:
            held.append(group)
    if not held:
        raise DataError(
            f"the {len(groups)} images to enrol are of {len(sizes)} prompt group(s), so that none "
            "can be held back to calibrate with: add images of other prompts (other file names)"
        )
    return np.where(np.isin(groups, held), "val", "train")


def _refuse_repeat(file: EncodedFile, first: EncodedFile) -> EncodedFile:
    if file is first or file.reason:
        return file
    return replace(file, latents=None, reason=f"has the same content as {first.path.name}")


def _draw(name: str) -> bytes:
    return hashlib.sha256(name.encode()).digest()
