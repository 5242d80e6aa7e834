"""Rows of statistics beside a cache: computed on threads, read where all of them are kept."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from jaxtyping import Float16, Int
from threadpoolctl import threadpool_limits

from leakcache.errors import CacheStale
from leakcache.images.loader import in_order
from leakcache.store.array_store import FILE, RowSpec, RowStore
from leakcache.store.cache import LatentCache
from leakcache.store.derived import PixelReport, fill_store
from leakcache.store.source_images import AHEAD, Originals


def one_thread_each() -> threadpool_limits:
    """While it is entered, linear algebra takes one thread a call.

    The loader's threads share the cores already, and more threads on matrices as small as these
    make everything several times slower.
    """
    return threadpool_limits(limits=1, user_api="blas")


def fill_rows(
    originals: Originals,
    spec: RowSpec,
    one: Callable[[int], Float16[np.ndarray, "..."]],
    *,
    fresh: bool,
    repair: bool,
) -> PixelReport:
    """Compute and keep the rows of images that are not there yet.

    Args:
        originals: the images.
        spec: of the rows.
        one: gives the row of the image at a position.
        fresh: throw away what is there.
        repair: read what is there through its checksums and compute again what is lost.

    Raises:
        CacheStale: an image file has changed since the cache was built.
        CacheError: another process is writing there, or the disk is full.
    """

    def compute(rows: Int[np.ndarray, "k"]) -> Float16[np.ndarray, "k ..."]:
        with one_thread_each():
            return np.stack(list(in_order(one, rows.tolist(), ahead=AHEAD)))

    return fill_store(originals, spec, compute, fresh=fresh, repair=repair)


def stored_rows(
    cache: LatentCache, rows: Int[np.ndarray, "image"], spec: RowSpec
) -> Float16[np.ndarray, "image ..."] | None:
    """Rows of some images of a cache; None where one of them is missing or of another version.

    Raises:
        CacheCorrupt: a row's bytes do not match their checksum.
    """
    originals = Originals.of(cache, rows)
    store = _complete(originals, spec)
    return None if store is None else store.read(originals.hashes)


def all_stored(cache: LatentCache, spec: RowSpec) -> bool:
    """Whether the rows of all images of a cache are kept."""
    return _complete(Originals.of(cache, np.arange(len(cache))), spec) is not None


def _complete(originals: Originals, spec: RowSpec) -> RowStore | None:
    if not (originals.kept / originals.spec(spec).name / FILE).is_file():
        return None
    try:
        store = originals.store(spec)
    except CacheStale:
        return None
    return None if store.missing(originals.hashes) else store
