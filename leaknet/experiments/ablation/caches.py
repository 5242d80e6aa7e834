"""The caches that an ablation may use, each read once, and what had to be encoded for it.

Closed caches are taken as they are, never built: a row whose cache is not there says what
builds it. Open sets are brought up to date as for `leak score`, so images that are new there
are the only ones that are ever encoded, and they are counted.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from leakcache.dataset.index import read_index
from leakcache.errors import CacheError
from leakcache.statistics.build import complete_alike, complete_statistics
from leakcache.store.cache import Cache
from leakcache.store.open_set import open_set_builds
from leaknet.config import FeatureConfig
from leaknet.data.split import SplitLatents
from leaknet.experiments.ablation.spec import CacheRequirement
from leaknet.experiments.task import ClosedSet, Task
from leaknet.scoring.run_embeddings import open_splits


class CachePool:
    """The main cache, and others of the same images.

    Attributes:
        main: the cache that every row uses which does not ask for another.
        encoded: images that went through an encoder since the shelf was made.
    """

    def __init__(
        self,
        main: Cache,
        also: Sequence[Cache] = (),
        open_roots: Sequence[Path] = (),
        device: str = "cpu",
    ) -> None:
        """Put caches on the shelf; nothing is read yet.

        Args:
            main: the closed cache.
            also: closed caches of the same images, encoded otherwise.
            open_roots: folders of unknown generators; the open set of the data without any.
            device: where images of open sets are encoded that are not yet.
        """
        self.main = main
        self.encoded = 0
        self._caches = (main, *also)
        self._roots, self._device = tuple(open_roots), device
        self._tasks: dict[tuple[Path, bool, bool, bool], Task] = {}

    def find(self, wish: CacheRequirement) -> Cache:
        """The first cache that is as wished.

        Raises:
            CacheError: there is none, or it holds other images; says what builds one.
        """
        encoding, manifest = self.main.manifest.encoding, self.main.manifest
        fitting = [c for c in self._caches if wish.fits(encoding, c.manifest.encoding)]
        for cache in fitting:
            if cache.manifest.images_sha256 == manifest.images_sha256:
                return cache
        others = f"; {fitting[0].path} holds other images" if fitting else ""
        command = wish.command(encoding, manifest.data)
        raise CacheError(
            f"needs a cache of the same images with {wish.words}{others}: "
            f"run `{command}` and add --also DIR"
        )

    def task(self, cache: Cache, features: FeatureConfig) -> Task:
        """What runs on a cache learn from and are judged on, unknown generators included.

        Args:
            cache: one on the shelf.
            features: of the runs; the statistics of pixels that they read are completed first.

        Raises:
            CacheCorrupt: a shard's bytes do not match their checksum.
            CacheStale: the open set's cache belongs to other weights, or statistics are wanted
                of an image that has changed.
            WeightsError: the autoencoder that open images are encoded with cannot be had.
        """
        key = (cache.path, features.statistics, features.activations, features.degraded)
        if key not in self._tasks:
            complete_statistics(features, [cache], self._device)
            self._tasks[key] = ClosedSet.load(cache).whole(self._unknown(cache))
        return self._tasks[key]

    def _unknown(self, cache: Cache) -> list[SplitLatents]:
        if not self._roots and not _has_open_set(cache):
            return []
        builds = open_set_builds(cache, self._roots, self._device)
        self.encoded += sum(build.encoded for build in builds)
        unknown = [build.cache for build in builds]
        complete_alike(cache, unknown, self._device)
        return open_splits(unknown, cache)


def _has_open_set(cache: Cache) -> bool:
    data = Path(cache.manifest.data)
    return data.exists() and bool(read_index(data).unknown)
