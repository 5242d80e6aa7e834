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

from collections.abc import Callable, Iterator, Mapping
from functools import lru_cache
from types import MappingProxyType
from typing import TypeVar

import numpy as np
import torch
from jaxtyping import Float, Float16, Float32, Int, UInt8
from PIL import Image
from torch import Tensor

from leakcache.encoder.autoencoder import Encoder
from leakcache.errors import ImageError
from leakcache.images.loader import in_order
from leakcache.statistics.patch_covariance import length, log_triangle
from leakcache.statistics.pixel_features import LEAST
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

SCALES = (2, 4, 8)
"""How many times smaller than the picture the activations are that are read."""
KINDS = ("activation", "across", "down")
"""Activations, their differences from one column to the next, and from one row to the next."""
CHANNELS = 64
"""Encoders of other widths are brought to this one by a fixed orthonormal matrix."""
LENGTHS: Mapping[str, int] = MappingProxyType(
    {f"{kind}_{scale}": length(CHANNELS) for scale in SCALES for kind in KINDS}
)
"""Values of each family, in the order of a row."""
LENGTH = sum(LENGTHS.values())
FLOOR = 1e-3
"""Added to every variance, as a share of their mean: single directions of rounding say nothing."""
LEAST_VARIANCE = 1e-8
"""The same for blank views, whose variances are 0."""
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


Seen = tuple[Float[Tensor, "channel _ _"], ...]
"""Activations of a view at each of `SCALES`."""


def look(encoder: Encoder, view: UInt8[np.ndarray, "height width 3"]) -> Seen:
    """Activations of a view, less its last rows and columns where it is not a multiple of 8."""
    height, width = (side // encoder.DOWNSCALE * encoder.DOWNSCALE for side in view.shape[:2])
    return encoder.activations(torch.from_numpy(view[:height, :width].copy()))


def activation_statistics(seen: Seen, parts: int = 1) -> Float32[np.ndarray, "{parts} value"]:
    """Families of a view as a whole, and of its quarters where `parts` is 5.

    Raises:
        ImageError: an activation is not finite, as half precision may give.
    """
    if not all(bool(maps.isfinite().all()) for maps in seen):
        raise ImageError("the encoder gave activations that are not finite")
    scales = [_covariances(maps, scale, parts) for scale, maps in zip(SCALES, seen, strict=True)]
    return np.concatenate(scales, axis=1)


def look_at(encoder: Encoder, image: Image.Image) -> tuple[Seen, Seen]:
    """Activations of an RGB picture as it is, and of it brought to one size and enlarged."""
    return look(encoder, middle(image)), look(encoder, _enlarged(reduced(image)))


def activation_statistics_of(seen: tuple[Seen, Seen]) -> Float16[np.ndarray, "view value"]:
    """The row of what `look_at` gives; raises as `activation_statistics`."""
    found = [activation_statistics(size, PARTS) for size in seen]
    return np.concatenate(found).astype(np.float16)


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


def _covariances(
    maps: Float[Tensor, "channel height width"], scale: int, parts: int
) -> Float32[np.ndarray, "{parts} value"]:
    """Of each part, every kind."""
    if len(maps) > CHANNELS:
        maps = torch.einsum("oc,chw->ohw", _orthonormal(len(maps)).to(maps), maps)
    return np.stack(
        [
            np.concatenate([_log_covariance(kind) for kind in _kinds(part)])
            for part in list(_parts(maps, LEAST // scale))[:parts]
        ]
    )


@lru_cache
def _orthonormal(channels: int) -> Float[Tensor, "64 {channels}"]:
    """Orthonormal rows or columns, whichever are fewer; always the same."""
    generator = np.random.default_rng(channels)
    longer, shorter = max(channels, CHANNELS), min(channels, CHANNELS)
    basis = np.linalg.qr(generator.normal(size=(longer, shorter)))[0]
    return torch.from_numpy(basis.T.copy() if channels > CHANNELS else basis)


def _parts(
    maps: Float[Tensor, "channel height width"], least: int
) -> Iterator[Float[Tensor, "channel _ _"]]:
    """The whole, then its corners, half as wide and high, as `pixel_statistics.parts_of`."""
    yield maps
    height, width = (max(side // 2, least) for side in maps.shape[1:])
    bottom, right = maps.shape[1] - height, maps.shape[2] - width
    for top, left in ((0, 0), (0, right), (bottom, 0), (bottom, right)):
        yield maps[:, top : top + height, left : left + width]


def _kinds(
    maps: Float[Tensor, "channel height width"],
) -> tuple[Float[Tensor, "channel _ _"], ...]:
    return maps, maps[:, :, 1:] - maps[:, :, :-1], maps[:, 1:] - maps[:, :-1]


def _log_covariance(maps: Float[Tensor, "channel height width"]) -> Float32[np.ndarray, " entry"]:
    """Of `CHANNELS` channels: of fewer, turned into that many, which keeps their distances."""
    values = maps.flatten(1)
    values = values - values.mean(dim=1, keepdim=True)
    matrix = (values @ values.T).cpu().double().numpy() / values.shape[1]
    if len(matrix) < CHANNELS:
        turn = _orthonormal(len(matrix)).numpy()
        matrix = turn @ matrix @ turn.T
    return log_triangle(matrix, FLOOR * np.trace(matrix) / CHANNELS + LEAST_VARIANCE)
