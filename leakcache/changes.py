"""What has changed between a finished cache and the images as they are now."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from leakcache.index import DatasetIndex
from leakcache.loader import hash_file, in_order
from leakcache.progress import track
from leakcache.store import LatentCache

NAMED = 3
"""How many paths a message names before it only counts."""


@dataclass(frozen=True)
class Changes:
    """Paths, by what happened to them since the cache was built.

    Attributes:
        added: in the index, not in the cache.
        removed: in the cache, not in the index.
        altered: other content under the same path.
        moved: the same content, another label, group or fold.
    """

    added: tuple[str, ...] = ()
    removed: tuple[str, ...] = ()
    altered: tuple[str, ...] = ()
    moved: tuple[str, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.added or self.removed or self.altered or self.moved)

    def __str__(self) -> str:
        parts = [
            f"{len(paths)} {what} ({', '.join(paths[:NAMED])}{', …' * (len(paths) > NAMED)})"
            for what, paths in (
                ("added", self.added),
                ("removed", self.removed),
                ("changed", self.altered),
                ("relabelled or in another fold", self.moved),
            )
            if paths
        ]
        return "; ".join(parts) or "nothing changed"


def find_changes(cache: LatentCache | None, index: DatasetIndex) -> Changes:
    """Compare a cache with the images on disk, reading every file that both know.

    Without a cache nothing has changed: there is nothing to compare with.
    """
    if cache is None:
        return Changes()
    then = _rows(cache)
    now = {record.path: (record.label, record.group, record.fold) for record in index.records}
    common = [path for path in now if path in then]
    with track("checking", len(common), "images") as advance:
        hashes = {}
        paths = (index.root / path for path in common)
        for path, sha256 in zip(common, in_order(hash_file, paths), strict=True):
            hashes[path] = sha256
            advance(1)
    return Changes(
        added=tuple(path for path in now if path not in then),
        removed=tuple(path for path in then if path not in now),
        altered=tuple(path for path in common if hashes[path] != then[path][0]),
        moved=tuple(path for path in common if now[path] != then[path][1:]),
    )


def listed_otherwise(cache: LatentCache, index: DatasetIndex) -> bool:
    """Whether the data's place, its layout or what it leaves out is not what the cache says."""
    manifest, seen = cache.manifest, {record.path for record in index.records}
    then = {(path, reason) for path, reason in manifest.rejects if path not in seen}
    now = {(reject.path, reject.reason) for reject in index.rejects if reject.path not in seen}
    return (manifest.data, manifest.layout, then) != (str(index.root), index.layout, now)


def _rows(cache: LatentCache) -> Mapping[str, tuple[str, str, str, str]]:
    table = cache.table()
    columns = (table[name].tolist() for name in ("sha256", "label", "group", "fold"))
    return dict(zip(table["path"].tolist(), zip(*columns, strict=True), strict=True))
