"""What autoencoders lose of a picture, measured once an image and kept."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int, Shaped
from torch import Tensor

from leakcache.store.array_store import Rows, RowSpec
from leakcache.store.views import CROPS
from leaknet.baselines.autoencoders import Reconstructor
from leaknet.baselines.images import PeerImages

NATIVE = 256
"""Side of the central native crop that is measured: resizing takes most of the trace."""
AT_ONCE = 8
"""Images that go through an autoencoder at once."""

Measure = Callable[
    [Float[Tensor, "image 3 side side"], Reconstructor], Shaped[Tensor, "image *row"]
]
"""From RGB in -1 to 1, on the autoencoder's device, to one row an image."""


def measured(
    images: PeerImages,
    autoencoder: Reconstructor,
    measure: Measure,
    spec: tuple[str, tuple[int, ...], str],
    *,
    side: int = NATIVE,
    **depends: Any,
) -> Rows:
    """Rows of one measurement by one autoencoder on the central native crop, kept by content.

    Args:
        images: what is measured.
        autoencoder: with what.
        measure: gives the rows of a batch.
        spec: name, shape and type of a row.
        side: of the crop in pixels, a multiple of 8 up to `NATIVE`.
        depends: settings that the measurement depends on.
    """
    name, shape, dtype = spec
    settings = {"autoencoder": autoencoder.sha256, "side": side, **depends}
    crops = images.pixels(CROPS)

    def compute(rows: Int[np.ndarray, "k"]) -> Shaped[np.ndarray, "k *row"]:
        parts = [
            measure(pixels, autoencoder).cpu().numpy()
            for pixels in _batches(crops, rows, side, autoencoder)
        ]
        return np.concatenate(parts).astype(dtype)

    full = f"{name}-{autoencoder.name}-{autoencoder.sha256[:8]}"
    return images.derived(RowSpec(full, shape, dtype, settings), compute)


def _batches(
    crops: Rows, rows: Int[np.ndarray, "k"], side: int, autoencoder: Reconstructor
) -> Iterator[Float[Tensor, "image 3 side side"]]:
    device = next(autoencoder.network.parameters()).device
    corner = (NATIVE - side) // 2
    inner = slice(corner, corner + side)
    for start in range(0, len(rows), AT_ONCE):
        # The first of several crops is the central one.
        views = crops[rows[start : start + AT_ONCE]][:, 0, inner, inner]
        pixels = torch.from_numpy(np.ascontiguousarray(views)).to(device)
        yield pixels.permute(0, 3, 1, 2).float() / 127.5 - 1
