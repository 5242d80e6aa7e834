"""Statistics of what the autoencoder's encoder sees: of its activations, beside pixels.

DIR/rows/activation-statistics-1a2b3c4d-fp32/ is a store of `leakcache.store.array_store`: one
row an image,
found by content hash, of covariances of the activations of the encoder with these weights, in this
precision, wherever it halves the resolution. An encoder that was trained to keep all that matters
of a picture has filters for what generators do to one, which its four or sixteen channels of
latents have no room for (docs/LOG.md). Covariances of activations tell styles of texture apart
(Gatys, Ecker and Bethge, "Texture synthesis using convolutional neural networks", 2015).

A row has the picture as it is and its quarters, then the picture brought to one size and its
quarters: these cost no pass of their own, as they are corners of the whole's activations.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import lru_cache
from typing import TypeVar

import numpy as np
import torch
from jaxtyping import Float16, Int, UInt8
from PIL import Image

from leakcache.encoder.autoencoder import Activations, Encoder
from leakcache.errors import ImageError
from leakcache.images.loader import in_order
from leakcache.statistics.activation_features import LENGTH, LENGTHS, activation_statistics
from leakcache.statistics.pixels import MOST, PARTS, REDUCED, middle, reduced
from leakcache.store.array_store import RowSpec
from leakcache.store.cache import Cache
from leakcache.store.derived import (
    PixelReport,
    all_stored,
    fill_store,
    one_thread_each,
    stored_rows,
)
from leakcache.store.manifest import Encoding
from leakcache.store.source_images import AHEAD, SourceImages

Sight = TypeVar("Sight")

SHARD = 16
"""An encoder of full size takes seconds an image."""
SIGHTS = 3
"""Pictures whose activations are in memory at most: some 30 MB for each view of 512 pixels."""
VIEWS = 2 * PARTS
"""Of a picture: its parts as they are, then the parts of it brought to one size."""
ENLARGED = 2
"""How many times the picture that was brought to one size is enlarged before it is looked at: the
finest traces are then also met where the encoder has come to halve for the last time, and the
covariances there are over four times as many positions (docs/LOG.md)."""
VERSION = 3
"""To be raised when a row has other values."""


def encoder_activations(encoder: Encoder, view: UInt8[np.ndarray, "height width 3"]) -> Activations:
    """Activations of one view, as a batch of one."""
    return encoder.encode_with_activations(torch.from_numpy(view.copy())[None])[1]


def look_at(encoder: Encoder, image: Image.Image) -> tuple[Activations, Activations]:
    """Activations of an RGB picture as it is, and of it brought to one size and enlarged."""
    native = encoder_activations(encoder, middle(image))
    return native, encoder_activations(encoder, _enlarged(reduced(image)))


def row_of(activations: Activations, parts: int) -> Float16[np.ndarray, "{parts} value"]:
    """Statistics of one view.

    Raises:
        ImageError: an activation is not finite, as half precision may give.
    """
    found = activation_statistics(activations, parts)[0].half().cpu().numpy()
    if not np.isfinite(found).all():
        raise ImageError("the encoder gave activations that are not finite")
    return found


def activation_statistics_of(
    seen: tuple[Activations, Activations],
) -> Float16[np.ndarray, "view value"]:
    """The row of what `look_at` gives; raises as `row_of`."""
    return np.concatenate([row_of(size, PARTS) for size in seen])


def build_activation_statistics(
    cache: Cache, device: str = "cpu", *, fresh: bool = False, repair: bool = False
) -> PixelReport:
    """Compute and keep the rows of every image of a cache that are not there yet.

    Args:
        cache: whose images, and whose autoencoder and precision.
        device: where the encoder runs.
        fresh: throw away what is there.
        repair: read what is there through its checksums and compute again what is lost.

    Raises:
        CacheStale: an image file, or the autoencoder, has changed since the cache was built.
        WeightsError: the autoencoder is not on this machine any more.
        ImageError: an activation is not finite.
        CacheError: another process is writing there, or the disk is full.
    """
    return fill_activations(
        cache,
        np.arange(len(cache)),
        spec_of(cache.manifest.encoding),
        lambda encoder, picture, _: look_at(encoder, picture),
        activation_statistics_of,
        device,
        fresh=fresh,
        repair=repair,
    )


def has_activation_statistics(cache: Cache) -> bool:
    """Whether the rows of all images of a cache are kept."""
    return all_stored(cache, spec_of(cache.manifest.encoding))


def stored_activation_statistics(
    cache: Cache, rows: Int[np.ndarray, "image"]
) -> Float16[np.ndarray, "image view value"] | None:
    """Rows of some images of a cache; None where not all of them are kept.

    Raises:
        CacheCorrupt: a row's bytes do not match their checksum.
    """
    return stored_rows(cache, rows, spec_of(cache.manifest.encoding))


def spec_of(encoding: Encoding) -> RowSpec:
    """Of rows by an encoding's autoencoder, in its precision; its preprocessing is not used."""
    weights = encoding.autoencoder.weights_sha256
    return RowSpec(
        f"activation-statistics-{weights[:8]}-{encoding.precision}",
        (VIEWS, LENGTH),
        "float16",
        {
            "autoencoder": weights,
            "enlarged": ENLARGED,
            "families": dict(LENGTHS),
            "most": MOST,
            "reduced": REDUCED,
            "version": VERSION,
        },
        SHARD,
    )


def fill_activations(
    cache: Cache,
    rows: Int[np.ndarray, "image"],
    spec: RowSpec,
    see: Callable[[Encoder, Image.Image, str], Sight],
    tell: Callable[[Sight], Float16[np.ndarray, "..."]],
    device: str,
    *,
    fresh: bool,
    repair: bool,
) -> PixelReport:
    """Compute and keep rows that an encoder takes part in; raises as `build_activation_statistics`.

    Args:
        cache: whose autoencoder, and in which precision.
        rows: whose images.
        spec: of the rows.
        see: what the encoder makes of a picture, whose hash it is told.
        tell: the row of that; on threads, while the encoder is at the next pictures.
        device: where the encoder runs.
        fresh: throw away what is there.
        repair: read what is there through its checksums and compute again what is lost.
    """
    originals = SourceImages.of(cache, rows)
    encoder: Callable[[], Encoder] = lru_cache(lambda: cache.manifest.encoding.encoder(device))

    def sights(places: list[int]) -> Iterator[tuple[int, Sight]]:
        pictures = in_order(originals.picture, places, ahead=AHEAD)
        for place, picture in zip(places, pictures, strict=True):
            yield place, see(encoder(), picture, originals.hashes[place])

    def row(sight: tuple[int, Sight]) -> Float16[np.ndarray, "..."]:
        try:
            return tell(sight[1])
        except ImageError as error:
            raise ImageError(f"{originals.files[sight[0]]}: {error}") from error

    def compute(rows: Int[np.ndarray, "k"]) -> Float16[np.ndarray, "k ..."]:
        with one_thread_each():
            return np.stack(list(in_order(row, sights(rows.tolist()), ahead=SIGHTS)))

    return fill_store(originals, spec, compute, fresh=fresh, repair=repair)


def _enlarged(
    view: UInt8[np.ndarray, "height width 3"],
) -> UInt8[np.ndarray, "larger wider 3"]:
    picture = Image.fromarray(view)
    size = (picture.width * ENLARGED, picture.height * ENLARGED)
    return np.asarray(picture.resize(size, Image.Resampling.LANCZOS))
