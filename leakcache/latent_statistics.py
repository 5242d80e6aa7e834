"""Statistics of the latents of native pixels, beside those of the pixels themselves.

DIR/rows/latent-statistics-1a2b3c4d-fp32/ is a store of `leakcache.rows`: one row an image, found by
content hash, of covariances of small patches of what the autoencoder with these weights, in this
precision, makes of the picture's middle. A cache's own latents, of pictures reduced to 256 pixels,
have lost what these show (docs/LOG.md).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import lru_cache

import numpy as np
import torch
from jaxtyping import Float16, Float32, Int, UInt8

from leakcache.autoencoder import Encoder
from leakcache.companions import LEAST
from leakcache.companions.covariance import length, log_covariance
from leakcache.errors import ImageError
from leakcache.loader import in_order
from leakcache.manifest import Encoding
from leakcache.originals import AHEAD, Originals
from leakcache.pixel_cache import PixelReport, fill_store
from leakcache.pixel_statistics import MOST, PARTS, middle
from leakcache.rows import RowSpec
from leakcache.statistic_rows import all_stored, one_thread_each, stored_rows
from leakcache.store import LatentCache

FEW = 4
"""Channels: of more, patches are smaller, so that rows stay short and covariances certain."""
CONTRAST = 0.05
"""Patches of less are not raised to unit contrast; latents have a deviation of about 1."""
SHARD = 16
"""An encoder of full size takes seconds an image."""
VERSION = 1
"""To be raised when a row has other values."""


def latent_lengths(channels: int) -> Mapping[str, int]:
    """Values of each family, in the order of a row, for latents of so many channels."""
    each = length(channels * side_of(channels) ** 2)
    return {"latent_covariance": each, "normalised_latent": each}


def side_of(channels: int) -> int:
    """Side of a patch, which reaches over all channels, in places of a latent."""
    return 3 if channels <= FEW else 2


def native_latent(
    encoder: Encoder, view: UInt8[np.ndarray, "height width 3"]
) -> Float32[np.ndarray, "channel height//8 width//8"]:
    """Latent of a view as it is, less its last rows and columns where it is not a multiple of 8.

    Raises:
        ImageError: a value is not finite, as half precision may give.
    """
    height, width = (side // encoder.DOWNSCALE * encoder.DOWNSCALE for side in view.shape[:2])
    pixels = torch.from_numpy(view[None, :height, :width].copy())
    found: np.ndarray = encoder.encode_bytes(pixels)[0].cpu().numpy()
    if not np.isfinite(found).all():
        raise ImageError("the encoder gave latents that are not finite")
    return found


def latent_statistics(
    z0: Float32[np.ndarray, "channel height width"],
) -> Float16[np.ndarray, "part value"]:
    """Both families of a latent, at least 8 places high and wide, and of each of its quarters.

    Log-covariances of patches as they are, and of patches of equal contrast, which ignore how
    strong a texture is (as `leakcache.companions.normalised_luma` does in pixels).
    """
    return np.stack([_families(part) for part in _parts(z0)]).astype(np.float16)


def build_latent_statistics(
    cache: LatentCache, device: str = "cpu", *, fresh: bool = False, repair: bool = False
) -> PixelReport:
    """Encode native pixels and keep the rows of every image of a cache that are not there yet.

    Args:
        cache: whose images, and whose autoencoder and precision.
        device: where to encode.
        fresh: throw away what is there.
        repair: read what is there through its checksums and compute again what is lost.

    Raises:
        CacheStale: an image file, or the autoencoder, has changed since the cache was built.
        WeightsError: the autoencoder is not on this machine any more.
        ImageError: a latent is not finite.
        CacheError: another process is writing there, or the disk is full.
    """
    encoding = cache.manifest.encoding
    originals = Originals.of(cache, np.arange(len(cache)))
    encoder: Callable[[], Encoder] = lru_cache(lambda: encoding.encoder(device))

    def one(
        row: int, view: UInt8[np.ndarray, "height width 3"]
    ) -> Float16[np.ndarray, "part value"]:
        try:
            return latent_statistics(native_latent(encoder(), view))
        except ImageError as error:
            raise ImageError(f"{originals.files[row]}: {error}") from error

    def compute(rows: Int[np.ndarray, "k"]) -> Float16[np.ndarray, "k view value"]:
        places = rows.tolist()
        views = in_order(lambda row: middle(originals.picture(row)), places, ahead=AHEAD)
        with one_thread_each():
            return np.stack([one(row, view) for row, view in zip(places, views, strict=True)])

    return fill_store(originals, spec_of(encoding), compute, fresh=fresh, repair=repair)


def has_latent_statistics(cache: LatentCache) -> bool:
    """Whether the rows of all images of a cache are kept."""
    return all_stored(cache, spec_of(cache.manifest.encoding))


def stored_latent_statistics(
    cache: LatentCache, rows: Int[np.ndarray, "image"]
) -> Float16[np.ndarray, "image view value"] | None:
    """Rows of some images of a cache; None where not all of them are kept.

    Raises:
        CacheCorrupt: a row's bytes do not match their checksum.
    """
    return stored_rows(cache, rows, spec_of(cache.manifest.encoding))


def spec_of(encoding: Encoding) -> RowSpec:
    """Of rows by an encoding's autoencoder, in its precision; its preprocessing is not used."""
    autoencoder = encoding.autoencoder
    lengths = latent_lengths(autoencoder.channels)
    return RowSpec(
        f"latent-statistics-{autoencoder.weights_sha256[:8]}-{encoding.precision}",
        (PARTS, sum(lengths.values())),
        "float16",
        {
            "autoencoder": autoencoder.weights_sha256,
            "scaling_factor": autoencoder.scaling_factor,
            "shift_factor": autoencoder.shift_factor,
            "families": dict(lengths),
            "most": MOST,
            "version": VERSION,
        },
        SHARD,
    )


def _families(z0: Float32[np.ndarray, "channel height width"]) -> Float32[np.ndarray, " value"]:
    side = side_of(len(z0))
    plain = log_covariance(z0, side, stride=1)
    return np.concatenate([plain, log_covariance(z0, side, CONTRAST, stride=1)])


def _parts(
    z0: Float32[np.ndarray, "channel height width"],
) -> tuple[Float32[np.ndarray, "channel _ _"], ...]:
    """The whole, then its corners, half as wide and high, as `pixel_statistics.parts_of`."""
    height, width = (max(side // 2, LEAST // Encoder.DOWNSCALE) for side in z0.shape[1:])
    bottom, right = z0.shape[1] - height, z0.shape[2] - width
    corners = ((0, 0), (0, right), (bottom, 0), (bottom, right))
    return z0, *(z0[:, top : top + height, left : left + width] for top, left in corners)
