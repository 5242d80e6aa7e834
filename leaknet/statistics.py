"""Statistics of the pixels that settings read and caches lack: computed when first asked for."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from leakcache.store import LatentCache
    from leaknet.sections import FeatureConfig


def complete_statistics(features: FeatureConfig, caches: Iterable[LatentCache]) -> None:
    """Bring the statistics of caches up to date, as `leak cache build --with statistics` does.

    Args:
        features: nothing is done where they read no statistics; those of degraded copies are
            computed of training images alone.
        caches: whose images; nothing is read where all rows are kept.

    Raises:
        CacheStale: an image file is gone, or has changed since the cache was built.
    """
    if not features.statistics:
        return
    from leakcache.degraded_statistics import build_degraded
    from leakcache.pixel_statistics import build_statistics

    for cache in caches:
        build_statistics(cache)
        if features.degraded and len(cache.rows("train")):
            build_degraded(cache)
