"""Small data sets for the compared methods, as `leak bench` would hand them over."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
from PIL import Image
from tiny_data import tiny_image

from leakcache.store.source_images import SourceImages
from leaknet.baselines import BaselineImages

CLASSES = ("ada", "bob", "cyd")


def textured(seed: int, kind: int, side: int) -> Image.Image:
    """A image with the trace of its kind: nothing, a checkerboard, or rows of a period of 4."""
    pixels = np.asarray(tiny_image(seed, (side, side)), np.int16)
    rows, columns = np.indices((side, side))
    trace = (0 * rows, 24 * ((rows + columns) % 2) - 12, 24 * (rows % 4 < 2) - 12)[kind]
    return Image.fromarray((pixels + trace[..., None]).clip(0, 255).astype(np.uint8))


def baseline_images(
    folder: Path, fold: str, count: int, *, side: int = 64, classes: tuple[str, ...] = CLASSES
) -> BaselineImages:
    """`count` images of each class, in a fold of their own; the same ones every time."""
    files, labels, groups = [], [], []
    first = {"train": 0, "val": 1000, "test": 2000, "open": 3000}[fold]
    for kind, label in enumerate(classes):
        for number in range(count):
            path = folder / "images" / fold / label / f"{number}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            textured(first + 100 * kind + number, kind, side).save(path)
            files.append(path)
            labels.append(label)
            groups.append(f"{fold}{number}")
    hashes = [hashlib.sha256(path.read_bytes()).hexdigest() for path in files]
    return BaselineImages(
        labels=np.array(labels),
        groups=np.array(groups),
        folds=np.array([fold] * len(files)),
        hashes=np.array(hashes),
        paths=np.array([path.name for path in files]),
        originals=SourceImages(tuple(files), tuple(hashes), folder),
    )
