"""Statistics of activations for degraded copies of the training images, beside their pixels'.

DIR/rows/activations-degraded-1a2b3c4d-fp32/ holds for each training image those of the copies of
`leakcache.degraded_statistics`, as they are and brought to one size.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from jaxtyping import Float16, Int
from PIL import Image

from leakcache.activation_statistics import (
    LENGTH,
    activation_statistics,
    fill_activations,
    spec_of,
)
from leakcache.autoencoder import Encoder
from leakcache.degraded_statistics import COPIES, DRAWN, copies_of
from leakcache.manifest import Encoding
from leakcache.originals import Originals
from leakcache.pixel_cache import PixelReport
from leakcache.pixel_statistics import middle, reduced
from leakcache.rows import RowSpec
from leakcache.statistic_rows import stored_rows
from leakcache.store import LatentCache


def build_degraded_activations(
    cache: LatentCache, device: str = "cpu", *, fresh: bool = False, repair: bool = False
) -> PixelReport:
    """Compute and keep the rows of the training fold that are not there yet.

    Arguments and errors as `leakcache.activation_statistics.build_activation_statistics`.
    """

    def row(
        encoder: Encoder, picture: Image.Image, sha256: str
    ) -> Float16[np.ndarray, "copy view value"]:
        found = [
            [activation_statistics(encoder, view)[0] for view in (middle(copy), reduced(copy))]
            for copy in copies_of(picture, sha256)
        ]
        return np.array(found).astype(np.float16)

    encoding = cache.manifest.encoding
    originals = Originals.of(cache, cache.rows("train"))
    spec = degraded_spec(encoding)
    return fill_activations(originals, encoding, spec, row, device, fresh=fresh, repair=repair)


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
