"""The pixel cache: canonical pixels of every image of a cache, beside its latents.

DIR/rows/resize256/, DIR/rows/crop256x2/, …: stores of `leakcache.store.array_store`, shared by
the splits of
DIR, and by whatever else methods derive from images. Latents and their fingerprint know
nothing of them.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float16, Int
from threadpoolctl import threadpool_limits

from leakcache.errors import CacheStale, ImageError
from leakcache.images.loader import in_order
from leakcache.store.array_store import FILE, Compute, RowSpec, RowStore, stored_spec
from leakcache.store.cache import Cache
from leakcache.store.source_images import AHEAD, SourceImages, kept_folder
from leakcache.store.views import CROPS, RESIZED, Cut

CUTS: tuple[Cut, ...] = (RESIZED, CROPS)
"""What `leak cache build --with pixels` stores."""


@dataclass(frozen=True)
class PixelReport:
    """What a build did for one store.

    Attributes:
        name: of the store.
        cut: images that were decoded in this run.
        kept: images whose rows were there.
        bytes: of the store on disk.
    """

    name: str
    cut: int
    kept: int
    bytes: int


@dataclass(frozen=True)
class RowCheck:
    """What was found in the stores beside a cache.

    Attributes:
        shards: read through their checksums.
        damaged: one line for each shard that failed.
        recut: images that were decoded and cut again.
        differing: one line for each whose pixels or file are others now.
    """

    shards: int
    damaged: tuple[str, ...]
    recut: int
    differing: tuple[str, ...]

    @property
    def ok(self) -> bool:
        """Whether nothing was found."""
        return not (self.damaged or self.differing)


def build_pixels(cache: Cache, *, fresh: bool = False, repair: bool = False) -> list[PixelReport]:
    """Cut and keep the pixels of every image of a cache that are not there yet.

    To resume after a kill, call it again: finished shards stay as they are.

    Args:
        cache: whose images.
        fresh: throw away what is there.
        repair: read what is there through its checksums and cut again what is lost.

    Raises:
        CacheStale: an image file has changed since the cache was built.
        CacheError: another process is writing there, or the disk is full.
    """
    originals = SourceImages.of(cache, np.arange(len(cache)))
    return [
        fill_store(originals, cut.spec, partial(originals.cut, cut), fresh=fresh, repair=repair)
        for cut in CUTS
    ]


def fill_store(
    originals: SourceImages, spec: RowSpec, compute: Compute, *, fresh: bool, repair: bool
) -> PixelReport:
    """Bring one store up to date; arguments and errors as `build_pixels`.

    Args:
        originals: the images.
        spec: of the store.
        compute: gives the rows at some positions of `originals`.
        fresh: throw away what is there.
        repair: compute again what fails its checksum.
    """
    if fresh:
        shutil.rmtree(originals.store(spec).folder)
    store = originals.store(spec)
    if repair:
        store.forget(list(store.damaged()))
    missing = len(store.missing(originals.hashes))
    originals.derived(spec, compute)
    size = _bytes(store.folder)
    return PixelReport(store.spec.name, missing, len(originals) - missing, size)


def describe_rows(folder: Path) -> dict[str, dict[str, Any]]:
    """What is kept beside the splits of the cache in `folder`: shape, images and bytes by store."""
    return {
        store.spec.name: {
            "images": len(store),
            "shape": list(store.spec.shape),
            "dtype": store.spec.dtype,
            "bytes": _bytes(store.folder),
        }
        for store in _stores(folder)
    }


def check_rows(folder: Path, caches: Sequence[Cache], spot: int, seed: int = 0) -> RowCheck:
    """Check every store beside a cache, and cut some pixels again.

    Args:
        folder: of the cache's splits.
        caches: the splits, whose images are cut again.
        spot: how many randomly drawn images of each split to cut again; 0 for none.
        seed: of that draw.
    """
    stores = _stores(folder)
    damaged = [line for store in stores for line in store.damaged().values()]
    differing: list[str] = []
    recut = 0
    for cache in caches if not damaged else ():
        rows = np.random.default_rng(seed).permutation(len(cache))[:spot]
        originals = SourceImages.of(cache, rows)
        for cut in CUTS:
            differing += _differing(originals, cut)
        recut += len(rows) if stores else 0
    return RowCheck(sum(s.shards for s in stores), tuple(damaged), recut, tuple(differing))


def _differing(originals: SourceImages, cut: Cut) -> list[str]:
    if not (originals.kept / originals.spec(cut.spec).name / FILE).is_file():
        return []
    store, found = originals.store(cut.spec), []
    for row, sha256 in enumerate(originals.hashes):
        if sha256 in store:
            try:
                same = np.array_equal(originals.cut(cut, np.array([row])), store.read([sha256]))
                reason = "" if same else f"{originals.files[row]}: its {store.spec.name} differs"
            except (CacheStale, ImageError) as error:
                reason = str(error)
            found += [reason] if reason else []
    return found


def _stores(folder: Path) -> list[RowStore]:
    places = sorted(path.parent for path in kept_folder(folder).glob(f"*/{FILE}"))
    return [RowStore(place, stored_spec(place)) for place in places]


def _bytes(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


# Rows of statistics beside a cache: computed on threads, read where all of them are kept.


def one_thread_each() -> threadpool_limits:
    """While it is entered, linear algebra takes one thread a call.

    The loader's threads share the cores already, and more threads on matrices as small as these
    make everything several times slower.
    """
    return threadpool_limits(limits=1, user_api="blas")


def fill_rows(
    originals: SourceImages,
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
    cache: Cache, rows: Int[np.ndarray, "image"], spec: RowSpec
) -> Float16[np.ndarray, "image ..."] | None:
    """Rows of some images of a cache; None where one of them is missing or of another version.

    Raises:
        CacheCorrupt: a row's bytes do not match their checksum.
    """
    originals = SourceImages.of(cache, rows)
    store = _complete(originals, spec)
    return None if store is None else store.read(originals.hashes)


def holds_rows(cache: Cache, rows: Int[np.ndarray, "image"], spec: RowSpec) -> bool:
    """Whether the rows of these images are stored."""
    return _complete(SourceImages.of(cache, rows), spec) is not None


def all_stored(cache: Cache, spec: RowSpec) -> bool:
    """Whether the rows of all images of a cache are stored."""
    return holds_rows(cache, np.arange(len(cache)), spec)


def _complete(originals: SourceImages, spec: RowSpec) -> RowStore | None:
    if not (originals.kept / originals.spec(spec).name / FILE).is_file():
        return None
    try:
        store = originals.store(spec)
    except CacheStale:
        return None
    return None if store.missing(originals.hashes) else store
