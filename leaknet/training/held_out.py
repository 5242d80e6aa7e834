"""Embeddings of validation images by fits without their prompt group, in the run folder.

The closed form of the statistics is fitted to training and validation images. What calibrates a
run must not have been fitted to, so validation images keep these embeddings; the model itself
would embed them as images that it knows.
"""

from __future__ import annotations

from pathlib import Path

import torch

from leakcache.errors import RunError
from leaknet.checksums import is_there, was_written
from leaknet.data.columns import ImageColumns
from leaknet.files import read_tensors, save_tensors
from leaknet.model.branch import HELD_OUT

FILE = "held_out.safetensors"


def write_held_out(run: Path, val: ImageColumns) -> None:
    """Keep the held-out embeddings of a validation fold, if it has them."""
    if HELD_OUT in val:
        save_tensors(run / FILE, {HELD_OUT: val[HELD_OUT]}, {"images": val.hashes.tolist()})


def with_held_out(run: Path, images: ImageColumns) -> ImageColumns:
    """The same images with their held-out embeddings, if the run was fitted to them.

    Raises:
        RunError: the file is missing or damaged, or the run was fitted to some of them alone.
    """
    if not is_there(run / FILE):
        if was_written(run / FILE):
            raise RunError(f"{run / FILE} is missing: restore it, or train again")
        return images
    tensors, metadata = read_tensors(run / FILE)
    places = {name: place for place, name in enumerate(metadata["images"])}
    rows = [places.get(name, -1) for name in images.hashes.tolist()]
    if not rows or max(rows) < 0:
        return images
    if min(rows) < 0:
        raise RunError(f"{run} was fitted to other validation images: train again")
    found = tensors[HELD_OUT][torch.tensor(rows)].to(images.device)
    return images.with_column(HELD_OUT, found)
