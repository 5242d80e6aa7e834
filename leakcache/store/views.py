"""Canonical uint8 pixels of images, cut once and kept beside the latents.

A cut is what a method reads of a picture. `RESIZED` and `CROPS` are what
`leak cache build --with pixels` stores; any other is stored when a method first asks for it.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import asdict, dataclass

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from leakcache.images.preprocess import Preprocessing, preprocess
from leakcache.store.array_store import RowSpec


class Cut(ABC):
    """What is kept of a picture."""

    @property
    @abstractmethod
    def spec(self) -> RowSpec:
        """Name, shape (view, side, side, 3) and settings of the rows."""

    @abstractmethod
    def __call__(self, image: Image.Image) -> UInt8[np.ndarray, "view side side 3"]:
        """The views of an RGB picture."""


@dataclass(frozen=True)
class Views(Cut):
    """The views that latents are encoded from, as they are."""

    preprocessing: Preprocessing

    @property
    def spec(self) -> RowSpec:
        """Of this preprocessing; the canonical track is not its business."""
        cut = self.preprocessing
        views = f"x{cut.views}" if cut.views > 1 else ""
        settings = {key: asdict(cut)[key] for key in ("name", "size", "views")}
        return RowSpec(
            f"{cut.name}{cut.size}{views}", (cut.views, cut.size, cut.size, 3), "uint8", settings
        )

    def __call__(self, image: Image.Image) -> UInt8[np.ndarray, "view side side 3"]:
        """The views of an RGB picture."""
        return preprocess(image, self.preprocessing)


RESIZED = Views(Preprocessing("resize", 256))
CROPS = Views(Preprocessing("crop", 256, 2))
