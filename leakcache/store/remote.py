"""A cache in an object store, read and written through a local folder, its mirror.

    MIRROR/origin.json    the URL, and of each object its version and the time of an unchanged copy

Opening copies manifests, commits and specs; a shard is copied when it is read. A build works in the
mirror, and `push` then uploads what is new: shards, specs, commits, manifests, in this order. Each
upload names the version that it replaces, or that there is none, so that two builds cannot mix.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from secrets import token_hex
from urllib.parse import unquote

from leakcache.dataset.archives import expanded
from leakcache.dataset.folders import UNPACKED
from leakcache.dataset.table_file import SUFFIXES
from leakcache.errors import CacheError, ConfigError
from leakcache.files import read_checked, replace_file, write_checked
from leakcache.names import visible
from leakcache.progress import Advance, track
from leakcache.store.object_store import ObjectStore

ORIGIN = "origin.json"
SCHEMES = ("s3", "gs", "az")
THREADS = 8
_MANIFEST = re.compile(r"[^/]+/manifest\.json")
_COMMIT = re.compile(r"store/commits/[^/]+\.json")
_SPEC = re.compile(r"store/columns/[^/]+/(column\.json|values\.zarr/zarr\.json)")
_SHARD = re.compile(r"store/columns/[^/]+/values\.zarr/c(/\d+)+")
_INSIDE = re.compile(r"(?!.*(^|/)\.\.?(/|$))[^/].*[^/]")
_ORDER = (_SHARD, _SPEC, _COMMIT, _MANIFEST)


def is_url(text: str) -> bool:
    """Whether a text names an object store: s3://, gs:// or az://."""
    return text.partition("://")[0].lower() in SCHEMES and "://" in text


def local_path(text: str) -> str:
    """The path that a file:// URL names; other text as it is.

    Raises:
        ConfigError: it is a URL of another kind.
    """
    scheme, mark, rest = text.partition("://")
    if not mark:
        return text
    if scheme.lower() != "file" or not rest.startswith("/"):
        raise ConfigError(f"{visible(text)}: takes s3://, gs://, az:// or file:///, or a folder")
    return unquote(rest)


def mirror_name(url: str) -> str:
    """Folder name of a URL's mirror, another for each URL."""
    plain = re.sub(r"[^\w.-]+", "-", url.partition("://")[2].strip("/"))
    return f"{plain}-{hashlib.sha256(url.encode()).hexdigest()[:8]}"


def cache_home(cache: str | Path, caches: Path = Path("caches"), mirror: str = "") -> Path:
    """Local folder of a cache: of a URL its mirror, which is brought up to date.

    Args:
        cache: folder or URL.
        caches: folder below which a URL has its mirror.
        mirror: the mirror, instead.

    Raises:
        CacheError, ConfigError: as `Mirror.open`.
    """
    if not is_url(str(cache)):
        return Path(local_path(str(cache)))
    url = str(cache)
    return Mirror.open(url, Path(mirror or caches / mirror_name(url))).folder


class Mirror:
    """The mirror of a cache.

    Attributes:
        folder: local.
        url: of the cache.
    """

    def __init__(self, folder: Path, url: str, objects: Mapping[str, tuple[str, int]]) -> None:
        self.folder, self.url = folder, url.rstrip("/")
        # By key: version, and the time in ns that a local copy has unless it was changed.
        self._objects = dict(objects)
        self._store = ObjectStore(self.url)

    @classmethod
    def of(cls, folder: Path) -> Mirror | None:
        """The mirror in a folder; None where it is no mirror, or what it says is damaged."""
        try:
            content = read_checked(folder / ORIGIN)
            return cls(folder, content["url"], {k: (v, n) for k, v, n in content["objects"]})
        except (OSError, ValueError, KeyError, TypeError):
            return None

    @classmethod
    def begin(cls, url: str, folder: Path) -> Mirror:
        """Make a local cache the mirror of an empty place; `push` then uploads it.

        Raises:
            CacheError: there is a cache already, or as `open`.
        """
        if mirror := cls._found(folder, url):
            return mirror
        mirror = cls(folder, url, {})
        if mirror._listed(*_ORDER):
            raise CacheError(f"{url}: there is a cache already; choose another URL")
        mirror._save()
        return mirror

    @classmethod
    def open(cls, url: str, folder: Path) -> Mirror:
        """Bring manifests, commits and specs in a mirror up to date; shards that changed go.

        Raises:
            CacheError: the store cannot be reached or refuses; says why.
            ConfigError: obstore is not installed, or the URL is malformed.
        """
        mirror = cls._found(folder, url) or cls(folder, url, {})
        if not (folder / ORIGIN).exists() and (folder / "store").exists():
            raise CacheError(f"{folder}: holds a cache of its own; give another --cache-mirror")
        # A manifest is written last: commits that are listed after it are enough for it.
        manifests = mirror._listed(_MANIFEST)
        folder.mkdir(parents=True, exist_ok=True)
        mirror._refresh(manifests, list(manifests))
        found = mirror._listed(_SHARD, _SPEC, _COMMIT)
        mirror._refresh(found, [key for key in found if not _SHARD.fullmatch(key)])
        gone = set(mirror._objects) - set(found) - set(manifests)
        for key in gone:
            (folder / key).unlink(missing_ok=True)
            del mirror._objects[key]
        mirror._save()
        return mirror

    @classmethod
    def _found(cls, folder: Path, url: str) -> Mirror | None:
        mirror = cls.of(folder)
        if mirror and mirror.url != url.rstrip("/"):
            raise CacheError(f"{folder}: mirrors {mirror.url}; take another folder")
        return mirror

    def fetch(self, paths: Iterable[Path]) -> None:
        """Copy objects whose local files are missing.

        Raises:
            CacheStale: one was replaced since the mirror was opened.
            CacheError: the store cannot be reached or refuses; says why.
        """
        keys = [path.relative_to(self.folder).as_posix() for path in paths]
        missing = [k for k in keys if k in self._objects and not (self.folder / k).is_file()]
        self._on_threads(self._download, missing)

    def push(self) -> int:
        """Upload what the store lacks or has in another version; returns how many objects.

        Raises:
            CacheBusy: another process has written the same objects meanwhile.
            CacheError: the store cannot be reached or refuses; says why.
        """
        files = (path for path in self.folder.rglob("*") if path.is_file())
        keys = sorted(path.relative_to(self.folder).as_posix() for path in files)
        changed = [key for key in keys if self._objects.get(key, ("", 0))[1] != self._time(key)]
        count = 0
        try:
            for kind in _ORDER:
                todo = [key for key in changed if kind.fullmatch(key)]
                self._on_threads(self._upload, todo)
                count += len(todo)
        finally:
            self._save()
        return count

    def _listed(self, *kinds: re.Pattern[str]) -> dict[str, tuple[str, int]]:
        """Version and time of each object of these kinds."""
        found = self._store.list().items()
        return {key: one for key, one in found if any(kind.fullmatch(key) for kind in kinds)}

    def _refresh(
        self,
        found: Mapping[str, tuple[str, int]],
        wanted: Iterable[str],
        advance: Advance = lambda count: None,
    ) -> None:
        """Take over the versions that were found; copy those of `wanted` that are new."""
        for key, (version, changed) in found.items():
            if self._objects.get(key, ("", 0))[0] != version:
                (self.folder / key).unlink(missing_ok=True)
                self._objects[key] = version, changed
        missing = [key for key in wanted if not (self.folder / key).is_file()]
        advance(len(found) - len(missing))
        self._on_threads(self._download, missing, advance)

    def _download(self, key: str) -> None:
        version, changed = self._objects[key]
        data, path = self._store.get(key, version), self.folder / key
        path.parent.mkdir(parents=True, exist_ok=True)
        partial_copy = path.with_name(f".{path.name}.{token_hex(4)}")
        replace_file(path, lambda file: file.write_bytes(data), partial_copy)
        os.utime(path, ns=(changed, changed))

    def _upload(self, key: str) -> None:
        version = self._objects.get(key, ("", 0))[0]
        found = self._store.put(key, (self.folder / key).read_bytes(), version)
        self._objects[key] = found, self._time(key)

    def _time(self, key: str) -> int:
        return (self.folder / key).stat().st_mtime_ns

    def _save(self) -> None:
        rows = [[key, *self._objects[key]] for key in sorted(self._objects)]
        write_checked(self.folder / ORIGIN, {"url": self.url, "objects": rows})

    def _on_threads(
        self,
        function: Callable[[str], None],
        keys: list[str],
        advance: Advance = lambda count: None,
    ) -> None:
        with ThreadPoolExecutor(THREADS) as executor:
            futures = [executor.submit(function, key) for key in keys]
            try:
                for future in futures:
                    future.result()
                    advance(1)
            finally:
                for future in futures:
                    future.cancel()


def copy_images(url: str, folder: Path) -> Path:
    """Copy images, archives or tables of a data set to a local folder; what is there stays.

    Args:
        url: of a folder, a file, or several as in `s3://bucket/shards/{0000..0099}.tar`.
        folder: for this URL alone.

    Returns:
        The local folder, file or pattern.

    Raises:
        CacheError: there is nothing, or the store cannot be reached or refuses; says why.
        ConfigError: obstore is not installed, or the URL is malformed.
    """
    base, wanted = _split(url.rstrip("/"))
    names = {str(path) for path in expanded(wanted)} if wanted else set()
    mirror = Mirror._found(folder, base) or Mirror(folder, base, {})
    found = mirror._listed(_INSIDE)
    found = {key: one for key, one in found.items() if not names or key in names}
    if not found:
        raise CacheError(f"{url}: there are no objects: check the URL")
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with track("copying", len(found), "objects") as advance:
            mirror._refresh(found, list(found), advance)
    finally:
        mirror._save()
    return folder / wanted


def _split(url: str) -> tuple[str, str]:
    """URL of a folder, and the file or pattern of files in it; empty for the folder itself."""
    scheme, _, rest = url.partition("://")
    parts = rest.split("/")
    braces = [n for n, part in enumerate(parts) if "{" in part]
    is_file = parts[-1].lower().endswith((*UNPACKED, *SUFFIXES)) and len(parts) > 1
    place = braces[0] if braces else len(parts) - is_file
    return f"{scheme}://{'/'.join(parts[:place])}", "/".join(parts[place:])
