"""Latents that need not be encoded again, found by the content hash of their image."""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from leakcache.errors import CacheCorrupt
from leakcache.store import SHARD, LatentCache, Latents, ShardArrays
from leakcache.workspace import Workspace


class ReusableLatents:
    """Latents of the former cache and of a build that was set aside.

    Both must come from the same encoding as the build that reuses them.
    """

    def __init__(self) -> None:
        self._where: dict[str, tuple[ShardArrays, int]] = {}
        self._shard = lru_cache(maxsize=2)(self._read)

    def add_cache(self, cache: LatentCache) -> None:
        """Offer every accepted image of a finished cache."""
        arrays, accepted = ShardArrays.open(cache.path), cache.accepted_hashes
        for row, sha256 in enumerate(cache.table()["sha256"]):
            if sha256 in accepted:
                self._where[sha256] = (arrays, row)

    def add_set_aside(self, workspace: Workspace) -> None:
        """Offer the finished shards of the unfinished build that was set aside."""
        arrays = None
        for shard, done in workspace.set_aside():
            arrays = arrays or ShardArrays.open(workspace.superseded)
            for offset, (sha256, reason) in enumerate(zip(done.sha256, done.reasons, strict=True)):
                if not reason:
                    self._where[sha256] = (arrays, shard * SHARD + offset)

    def __contains__(self, sha256: object) -> bool:
        return sha256 in self._where

    def get(self, sha256: str) -> np.ndarray:
        """z0 of one image, shape (view, channel, height, width), in the stored type."""
        arrays, row = self._where[sha256]
        latent: np.ndarray = self._shard(arrays, row // SHARD)[row % SHARD]
        return latent

    def drop_damaged(self) -> int:
        """Forget latents whose shard fails its checksum; returns how many were forgotten."""
        damaged = set()
        for arrays, shard in {(arrays, row // SHARD) for arrays, row in self._where.values()}:
            try:
                arrays.read(shard)
            except CacheCorrupt:
                damaged.add((arrays, shard))
        lost = [k for k, (arrays, row) in self._where.items() if (arrays, row // SHARD) in damaged]
        for sha256 in lost:
            del self._where[sha256]
        return len(lost)

    @staticmethod
    def _read(arrays: ShardArrays, shard: int) -> Latents:
        return arrays.read(shard)
