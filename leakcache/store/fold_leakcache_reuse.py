"""Latents that need not be encoded again, found by the content hash of their image."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

import numpy as np

from leakcache.errors import CacheCorrupt
from leakcache.store.cache import LatentCache
from leakcache.store.workspace import Workspace
from leakcache.store.zarr_shards import Latents, ShardArrays


class ReusableLatents:
    """Latents of the former cache and of builds that were set aside.

    All must come from the same encoding as the build that reuses them.
    """

    def __init__(self) -> None:
        self._where: dict[str, tuple[ShardArrays, int]] = {}
        self._shard = lru_cache(maxsize=2)(self._read)

    def add_cache(self, cache: LatentCache) -> None:
        """Offer every image of a finished cache that has a latent."""
        arrays = ShardArrays.open(cache.path)
        self._where |= {sha256: (arrays, row) for sha256, row in cache.encoded_rows().items()}

    def add_set_aside(self, workspace: Workspace, encoding: str) -> None:
        """Offer the finished shards of the unfinished builds that were set aside."""
        opened: dict[Path, ShardArrays] = {}
        for folder, shard, done in workspace.set_aside(encoding):
            if folder not in opened:
                opened[folder] = ShardArrays.open(folder)
            first = opened[folder].rows(shard).start
            for row, (sha256, reason) in enumerate(zip(done.sha256, done.reasons, strict=True)):
                if not reason:
                    self._where[sha256] = (opened[folder], first + row)

    def __contains__(self, sha256: object) -> bool:
        return sha256 in self._where

    def get(self, sha256: str) -> np.ndarray:
        """z0 of one image, shape (view, channel, height, width), in the stored type.

        Raises:
            CacheCorrupt: its shard does not match its checksum.
        """
        arrays, row = self._where[sha256]
        shard, offset = divmod(row, arrays.per_shard)
        latent: np.ndarray = self._shard(arrays, shard)[offset]
        return latent

    def drop_damaged(self) -> int:
        """Forget latents whose shard fails its checksum; returns how many were forgotten."""
        shards = {k: (arrays, row // arrays.per_shard) for k, (arrays, row) in self._where.items()}
        damaged = set()
        for arrays, shard in set(shards.values()):
            try:
                arrays.read(shard)
            except CacheCorrupt:
                damaged.add((arrays, shard))
        lost = [sha256 for sha256, shard in shards.items() if shard in damaged]
        for sha256 in lost:
            del self._where[sha256]
        return len(lost)

    @staticmethod
    def _read(arrays: ShardArrays, shard: int) -> Latents:
        return arrays.read(shard)
