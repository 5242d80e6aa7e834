"""Statistics of degraded copies of the training images, so that robustness can be learnt.

DIR/rows/statistics-degraded/ holds for each training image those of two copies: a WILD-like
one, of two operations (`leakcache.degrade.chain`), and the canonical form; of each as it is, and
brought to one size. More copies are hardly worth their cost (docs/LOG.md).
What is drawn depends on the image's hash and on seeds that no evaluation uses. No copy is kept
as a picture.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import Any

import numpy as np
from jaxtyping import Float16, Int
from PIL import Image

from leakcache.degrade.chain import degrade
from leakcache.encoder.autoencoder import Activations, Encoder
from leakcache.images.canonical import QUALITY, SIDE, canonicalise
from leakcache.statistics.activation_features import LENGTH as ACTIVATION_LENGTH
from leakcache.statistics.activations import (
    fill_activations,
    look_at,
    row_of,
    spec_of,
)
from leakcache.statistics.pixel_features import LENGTH, LENGTHS
from leakcache.statistics.pixels import (
    MOST,
    REDUCED,
    VERSION,
    at_both_sizes,
    middle,
    statistics,
)
from leakcache.store.array_store import RowSpec
from leakcache.store.cache import Cache
from leakcache.store.derived import PixelReport, fill_rows, stored_rows
from leakcache.store.manifest import Encoding
from leakcache.store.source_images import SourceImages

CHAINS = ((2, 102),)
"""Operations and seed of each copy but the last, which is canonical."""
COPIES = len(CHAINS) + 1
ROOM = 2 * MOST
"""Longest side of the part of a picture that is degraded: bounds what it costs."""

DRAWN: Mapping[str, Any] = MappingProxyType(
    {"chains": [list(chain) for chain in CHAINS], "last": [SIDE, QUALITY]}
)
"""What the copies depend on, beside the images."""

SPEC = RowSpec(
    "statistics-degraded",
    (COPIES, 2, LENGTH),
    "float16",
    {"families": dict(LENGTHS), "most": MOST, "reduced": REDUCED, "version": VERSION, **DRAWN},
)


def copies_of(image: Image.Image, sha256: str) -> list[Image.Image]:
    """Degraded copies of an RGB picture whose file has that hash."""
    part = Image.fromarray(middle(image, ROOM))
    copies = [degrade(part, step, seed, sha256)[0] for step, seed in CHAINS]
    return [*copies, canonicalise(image)]


def build_degraded(cache: Cache, *, fresh: bool = False, repair: bool = False) -> PixelReport:
    """Compute and keep the rows of the training fold that are not there yet.

    Arguments and errors as `leakcache.statistics.pixels.build_statistics`.
    """
    originals = SourceImages.of(cache, cache.rows("train"))

    def one(row: int) -> Float16[np.ndarray, "copy view value"]:
        copies = copies_of(originals.picture(row), originals.hashes[row])
        return np.array([at_both_sizes(statistics, copy) for copy in copies]).astype(np.float16)

    return fill_rows(originals, SPEC, one, fresh=fresh, repair=repair)


def stored_degraded(
    cache: Cache, rows: Int[np.ndarray, "image"]
) -> Float16[np.ndarray, "image copy view value"] | None:
    """Rows of some training images of a cache; None where not all of them are kept.

    Raises:
        CacheCorrupt: a row's bytes do not match their checksum.
    """
    return stored_rows(cache, rows, SPEC)


# Statistics of activations for degraded copies of the training images, beside their pixels'.
#
# DIR/rows/activations-degraded-1a2b3c4d-fp32/ holds for each training image those of the copies of
# `leakcache.statistics.degraded`, as they are and brought to one size.


def build_degraded_activations(
    cache: Cache, device: str = "cpu", *, fresh: bool = False, repair: bool = False
) -> PixelReport:
    """Compute and keep the rows of the training fold that are not there yet.

    Arguments and errors as `leakcache.statistics.activations.build_activation_statistics`.
    """
    rows, spec = cache.rows("train"), degraded_spec(cache.manifest.encoding)
    how = {"fresh": fresh, "repair": repair}
    return fill_activations(cache, rows, spec, _look_at_copies, _tell, device, **how)


def stored_degraded_activations(
    cache: Cache, rows: Int[np.ndarray, "image"]
) -> Float16[np.ndarray, "image copy view value"] | None:
    """Rows of some training images of a cache; None where not all of them are kept.

    Raises:
        CacheCorrupt: a row's bytes do not match their checksum.
    """
    return stored_rows(cache, rows, degraded_spec(cache.manifest.encoding))


def degraded_spec(encoding: Encoding) -> RowSpec:
    """Of rows by an encoding's autoencoder, in its precision."""
    spec = spec_of(encoding)
    return replace(
        spec,
        name=spec.name.replace("activation-statistics", "activations-degraded"),
        shape=(COPIES, 2, ACTIVATION_LENGTH),
        depends={**spec.depends, **DRAWN},
    )


def _look_at_copies(
    encoder: Encoder, picture: Image.Image, sha256: str
) -> list[tuple[Activations, Activations]]:
    return [look_at(encoder, copy) for copy in copies_of(picture, sha256)]


def _tell(copies: list[tuple[Activations, Activations]]) -> Float16[np.ndarray, "copy view value"]:
    found = [[row_of(view, 1)[0] for view in copy] for copy in copies]
    return np.array(found)
