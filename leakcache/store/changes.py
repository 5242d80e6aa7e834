"""What has changed between a finished cache and the images as they are now."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from leakcache.dataset.index import DatasetIndex
from leakcache.errors import CacheStale
from leakcache.images.loader import hash_file, in_order
from leakcache.progress import track
from leakcache.store import manifest
from leakcache.store.cache import Cache

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


def find_changes(cache: Cache | None, index: DatasetIndex) -> Changes:
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


def open_current(path: Path) -> Cache:
    """Open a finished cache and make sure that its images are still those that it saw.

    Cheap enough for every command: a file is read again only where its time or its size says that
    it may have changed. Files that are gone are no fault, as a cache stands alone.

    Raises:
        CacheStale: an image has other content than its latent.
        CacheIncomplete: its build has not finished.
        CacheCorrupt: its manifest or arrays are damaged.
    """
    cache = Cache.open(path)
    altered = _altered_since(cache, (path / manifest.FILE).stat().st_mtime_ns)
    if altered:
        raise CacheStale(
            f"{path}: since it was built, {Changes(altered=altered)}: "
            "run `leak cache build` again; only these will be encoded"
        )
    return cache


def _altered_since(cache: Cache, built: int) -> tuple[str, ...]:
    """Paths whose file has another size, or is newer than the cache and has another content."""
    altered, root = [], Path(cache.manifest.data)
    columns = (cache.paths.tolist(), cache.sizes.tolist(), cache.hashes.tolist())
    for path, size, sha256 in zip(*columns, strict=True):
        try:
            found = (root / path).stat()
        except OSError:
            continue
        newer = found.st_mtime_ns > built
        if found.st_size != size or (newer and hash_file(root / path) != sha256):
            altered.append(path)
    return tuple(altered)


def index_differs(cache: Cache, index: DatasetIndex) -> bool:
    """Whether the data's place, its layout or what it leaves out is not what the cache says."""
    known, seen = cache.manifest, {record.path for record in index.records}
    then = {(path, reason) for path, reason in known.rejects if path not in seen}
    now = {(reject.path, reject.reason) for reject in index.rejects if reject.path not in seen}
    return (known.data, known.layout, then) != (str(index.root), index.layout, now)


def _rows(cache: Cache) -> Mapping[str, tuple[str, str, str, str]]:
    table = cache.table()
    columns = (table[name].tolist() for name in ("sha256", "label", "group", "fold"))
    return dict(zip(table["path"].tolist(), zip(*columns, strict=True), strict=True))
