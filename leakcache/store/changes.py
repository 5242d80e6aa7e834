"""What has changed between a finished cache and the images as they are now."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from leakcache.errors import CacheStale
from leakcache.images.archive import hash_file, image_stat
from leakcache.store import manifest
from leakcache.store.cache import Cache
from leakcache.store.manifest import CacheManifest

NAMED = 3
"""How many paths a message names before it only counts."""


@dataclass(frozen=True)
class Changes:
    """Paths, by what happened to them since the cache was built.

    Attributes:
        added: not in the cache before.
        removed: not in the cache any more.
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


def find_changes(then: CacheManifest | None, now: CacheManifest) -> Changes:
    """Compare the images of two builds; nothing has changed where there was none before."""
    if then is None:
        return Changes()
    before, after = _images(then), _images(now)
    common = [path for path in after if path in before]
    return Changes(
        added=tuple(path for path in after if path not in before),
        removed=tuple(path for path in before if path not in after),
        altered=tuple(path for path in common if after[path][0] != before[path][0]),
        moved=tuple(path for path in common if after[path][1:] != before[path][1:]),
    )


def open_current(path: Path) -> Cache:
    """Open a finished cache and make sure that its images are still those that it was built from.

    Cheap enough for every command: a file is read again only where its time or its size says that
    it may have changed. Missing files are no fault, as a cache is complete without them.

    Raises:
        CacheStale: the content of an image has changed.
        CacheIncomplete: its build has not finished.
        CacheCorrupt: its manifest or the metadata of its columns are damaged.
    """
    cache = Cache.open(path)
    altered = _altered_since(cache, (path / manifest.FILE).stat().st_mtime_ns)
    if altered:
        raise CacheStale(
            f"{path}: since it was built, {Changes(altered=altered)}: "
            "run `leak cache build` again; only these will be computed"
        )
    return cache


def _altered_since(cache: Cache, built: int) -> tuple[str, ...]:
    """Paths whose file has another size, or is newer than the cache and has another content."""
    altered, root = [], cache.manifest.data
    if not Path(root).exists():
        return ()
    columns = (cache.paths.tolist(), cache.sizes.tolist(), cache.hashes.tolist())
    for path, size, sha256 in zip(*columns, strict=True):
        file = f"{root}/{path}"
        try:
            bytes_now, changed = _file_stat(file)
        except OSError:
            continue
        newer = changed > built
        if bytes_now not in (None, size) or (newer and hash_file(Path(file)) != sha256):
            altered.append(path)
    return tuple(altered)


def _file_stat(file: str) -> tuple[int | None, int]:
    """As `image_stat`, without the cost of paths for a plain file."""
    try:
        status = os.stat(file)  # noqa: PTH116  # a path costs more than the call
    except NotADirectoryError:  # one of the folders is an archive
        return image_stat(Path(file))
    return status.st_size, status.st_mtime_ns


def _images(manifest: CacheManifest) -> dict[str, tuple[str, str, str, str]]:
    columns = (manifest.table[name] for name in ("sha256", "label", "group", "fold"))
    return dict(zip(manifest.table["path"], zip(*columns, strict=True), strict=True))
