"""Caches of an experiment, each read once, and how many images were encoded for it.

Closed caches are taken as they are: a row whose cache is absent says what builds it. Open sets
are brought up to date as for `leak score`.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from leakcache.dataset.index import read_index
from leakcache.errors import CacheError
from leakcache.store.build import (
    build_alike,
    ensure_columns,
    fill_columns,
    open_set_builds,
    shared_columns,
)
from leakcache.store.cache import Cache
from leakcache.store.manifest import FILE
from leaknet.config import RunConfig
from leaknet.experiments.ablation.spec import CacheRequirement
from leaknet.experiments.trial import ClosedSet, Task
from leaknet.scoring.run_embeddings import open_splits


def collection_cache(other: Path, closed: Cache, device: str = "cpu") -> Cache:
    """The cache of another collection, with the columns of the closed one.

    Args:
        other: folder of a cache, or a data root, whose cache is then built beside the closed one.
        closed: decides how images are encoded.
        device: where to encode.

    Raises:
        DataError: the root holds no images.
        CacheStale: the autoencoder has other weights than when the closed cache was built.
    """
    folders = [folder for folder in (other / "closed", other) if (folder / FILE).is_file()]
    if folders:
        cache = Cache.open(folders[0])
    else:
        encoder = closed.manifest.encoding.encoder(device)
        folder = closed.path.parent / f"transfer-{other.resolve().name}"
        cache = build_alike(closed, read_index(other), encoder, folder, split="closed").cache
    fill_columns(cache, shared_columns(closed), device)
    return cache


class CachePool:
    """The main cache, and others of the same images.

    Attributes:
        main: the cache of every row that does not ask for another.
        encoded: images that were encoded since the pool was made.
    """

    def __init__(
        self,
        main: Cache,
        also: Sequence[Cache] = (),
        open_roots: Sequence[Path] = (),
        device: str = "cpu",
        *,
        fill: bool = False,
    ) -> None:
        """Collect caches; nothing is read yet.

        Args:
            main: the closed cache.
            also: closed caches of the same images, encoded otherwise.
            open_roots: folders of unknown generators; the open set of the data without any.
            device: where images are encoded.
            fill: compute columns that a closed cache lacks, instead of refusing it.
        """
        self.main = main
        self.encoded = 0
        self._caches = (main, *also)
        self._roots, self._device, self._fill = tuple(open_roots), device, fill
        self._tasks: dict[tuple[Path, tuple[str, ...]], Task] = {}

    def find(self, required: CacheRequirement) -> Cache:
        """The first cache that fits.

        Raises:
            CacheError: there is none, or it holds other images; says what builds one.
        """
        encoding, manifest = self.main.manifest.encoding, self.main.manifest
        fitting = [c for c in self._caches if required.fits(encoding, c.manifest.encoding)]
        for cache in fitting:
            if cache.manifest.images_sha256 == manifest.images_sha256:
                return cache
        others = f"; {fitting[0].path} holds other images" if fitting else ""
        command = required.command(encoding, manifest.data_options)
        raise CacheError(
            f"needs a cache of the same images with {required.words}{others}: "
            f"run `{command}` and add --also DIR"
        )

    def task(self, cache: Cache, config: RunConfig) -> Task:
        """The task on a cache of the pool, unknown generators included.

        Args:
            cache: one of the pool.
            config: of the runs; decides which columns are read.

        Raises:
            CacheCorrupt: a shard's bytes do not match their checksum.
            CacheStale: the open set's cache belongs to other weights, or an image has changed.
            WeightsError: the autoencoder that open images are encoded with cannot be had.
        """
        key = (cache.path, config.columns())
        if key not in self._tasks:
            ensure_columns([cache], config.columns(), self._device, fill=self._fill)
            builds = open_set_builds(cache, self._roots, self._device)
            self.encoded += sum(build.computed for build in builds)
            unknown = open_splits([build.cache for build in builds], cache, config)
            self._tasks[key] = ClosedSet.load(cache, config).whole(unknown)
        return self._tasks[key]
