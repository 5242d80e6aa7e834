"""Statistics of the pixels that settings read and caches lack: computed when first asked for."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from leakcache.store import LatentCache
    from leaknet.config import RunConfig


def complete_statistics(config: RunConfig, caches: Iterable[LatentCache]) -> None:
    """Bring the statistics of caches up to date, as `leak cache build --with statistics` does.

    Args:
        config: nothing is done where it reads no statistics.
        caches: whose images; nothing is read where all rows are kept.

    Raises:
        CacheStale: an image file is gone, or has changed since the cache was built.
    """
    if not config.features.statistics:
        return
    from leakcache.pixel_statistics import build_statistics

    for cache in caches:
        build_statistics(cache)
