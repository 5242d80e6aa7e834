"""Caches with unknown generators, and methods that take no time, for the tests of benches."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

import numpy as np
import torch

from leakcache.dataset.index import read_index
from leakcache.encoder.autoencoder import Encoder
from leakcache.errors import WeightsError
from leakcache.store.build import build_cache, open_set_builds
from leakcache.store.cache import Cache
from leaknet.baselines.base import Baseline, BaselineImages
from leaknet.data.embeddings import Embeddings
from tests.tiny_data import SMALL, save, tiny_image, tiny_model

KNOWN = ("ada", "bob")
UNKNOWN = ("eve", "fay")
SHADES = {"ada": 0, "bob": 25, "eve": 50, "fay": -25}


def write_shades(root: Path, labels: tuple[str, ...], count: int, first: int = 0) -> None:
    """Images that are darkened or brightened by their generator."""
    for label in labels:
        (root / label).mkdir(parents=True)
        for number in range(count):
            image = tiny_image(first + number + 1000 * (1 + abs(SHADES[label])))
            shaded = image.point([min(max(v + SHADES[label], 0), 255) for v in range(256)] * 3)
            shaded.save(root / label / f"{number:02d}.png")


def small_caches(root: Path, count: int = 20) -> tuple[Cache, list[Cache]]:
    """Known generators in `root/images`, unknown ones in `root/unknown`, encoded alike."""
    write_shades(root / "images", KNOWN, count)
    write_shades(root / "unknown", UNKNOWN, 4, first=500)
    encoder = Encoder.load(str(save(tiny_model(), root / "vae")))
    index = read_index(root / "images")
    closed = build_cache(index, encoder, root / "cache" / "closed", preprocessing=SMALL).cache
    return closed, [build.cache for build in open_set_builds(closed, [root / "unknown"])]


class Colours(Baseline):
    """Nearest mean colour; counts what it is asked to do."""

    name: ClassVar[str] = "colours"
    fits: ClassVar[int] = 0
    embedded: ClassVar[list[int]] = []

    def fit(self, train: BaselineImages, val: BaselineImages) -> Baseline:
        type(self).fits += 1
        colours = self._colours(train)
        targets = train.targets(self.classes)
        self.means = np.stack([colours[targets == c].mean(axis=0) for c in range(2)])
        self.means += 0.01 * self.options.seed
        return self

    def embed(self, images: BaselineImages) -> Embeddings:
        type(self).embedded.append(len(images))
        colours = self._colours(images)
        distances = np.linalg.norm(colours[:, None] - self.means, axis=-1)
        return self.embeddings(images, colours, -distances)

    @property
    def parameters(self) -> int:
        return 6

    def _colours(self, images: BaselineImages) -> np.ndarray:
        pixels = [np.asarray(images.originals.image(row)) for row in range(len(images))]
        return np.array([p.mean(axis=(0, 1)) for p in pixels]).reshape(-1, 3)


class Kept(Colours):
    """The same, with a state that can be taken over."""

    name: ClassVar[str] = "kept"
    fits: ClassVar[int] = 0
    embedded: ClassVar[list[int]] = []

    def state(self):
        return {"means": torch.from_numpy(self.means)}

    def restore(self, state):
        self.means = state["means"].numpy()
        return self


class Weightless(Colours):
    """Cannot be built here."""

    name: ClassVar[str] = "weightless"

    def __init__(self, classes, options):
        raise WeightsError("DIR/some.safetensors is not there: put it there")


def forget() -> None:
    """Set the counts back."""
    for kind in (Colours, Kept):
        kind.fits = 0
        kind.embedded.clear()
