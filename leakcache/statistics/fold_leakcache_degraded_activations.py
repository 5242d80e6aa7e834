"""Statistics of activations for degraded copies of the training images, beside their pixels'.

DIR/rows/activations-degraded-1a2b3c4d-fp32/ holds for each training image those of the copies of
`leakcache.statistics.degraded`, as they are and brought to one size.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from jaxtyping import Float16, Int
from PIL import Image

from leakcache.encoder.autoencoder import Encoder
from leakcache.statistics.activations import (
    LENGTH,
    Seen,
    activation_statistics,
    fill_activations,
    look_at,
    spec_of,
)
from leakcache.statistics.degraded import COPIES, DRAWN, copies_of
from leakcache.store.array_store import RowSpec
from leakcache.store.cache import LatentCache
from leakcache.store.derived import PixelReport
from leakcache.store.fold_leakcache_statistic_rows import stored_rows
from leakcache.store.manifest import Encoding


def build_degraded_activations(
    cache: LatentCache, device: str = "cpu", *, fresh: bool = False, repair: bool = False
) -> PixelReport:
    """Compute and keep the rows of the training fold that are not there yet.

    Arguments and errors as `leakcache.statistics.activations.build_activation_statistics`.
    """
    rows, spec = cache.rows("train"), degraded_spec(cache.manifest.encoding)
    how = {"fresh": fresh, "repair": repair}
    return fill_activations(cache, rows, spec, _look_at_copies, _tell, device, **how)


def stored_degraded_activations(
    cache: LatentCache, rows: Int[np.ndarray, "image"]
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
        shape=(COPIES, 2, LENGTH),
        depends={**spec.depends, **DRAWN},
    )


def _look_at_copies(encoder: Encoder, picture: Image.Image, sha256: str) -> list[tuple[Seen, Seen]]:
    return [look_at(encoder, copy) for copy in copies_of(picture, sha256)]


def _tell(copies: list[tuple[Seen, Seen]]) -> Float16[np.ndarray, "copy view value"]:
    found = [[activation_statistics(view)[0] for view in copy] for copy in copies]
    return np.array(found).astype(np.float16)
