"""A cache in an object store, read and written through a local folder, its mirror.

    MIRROR/origin.json    the URL, and of each object its version and the time of an unchanged copy

Opening copies manifests, commits and specs; a shard is copied when it is read. A build works in the
mirror and uploads what is new: shards, specs, commits, manifests, in this order. Each upload names
the version that it replaces, or that there is none, so that two builds cannot mix.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from secrets import token_hex
from urllib.parse import unquote

from leakcache.errors import CacheBusy, CacheError, CacheIncomplete, ConfigError
from leakcache.files import read_checked, replace_file, write_checked
from leakcache.names import visible
from leakcache.progress import Advance
from leakcache.store.object_store import ObjectStore, on_threads

ORIGIN = "origin.json"
SCHEMES = ("s3", "gs", "az")
_MANIFEST = re.compile(r"[^/]+/manifest\.json")
_COMMIT = re.compile(r"store/commits/[^/]+\.json")
_ARRAY = re.compile(r"store/columns/[^/]+/values\.zarr/zarr\.json")
_SPEC = re.compile(r"store/columns/[^/]+/column\.json")
_SHARD = re.compile(r"store/columns/[^/]+/values\.zarr/c(/\d+)+")
_ORDER = (_SHARD, _ARRAY, _SPEC, _COMMIT, _MANIFEST)


def is_url(text: str) -> bool:
    """Whether a text names an object store: s3://, gs:// or az://."""
    return text.partition("://")[0].lower() in SCHEMES and "://" in text


def local_path(text: str) -> str:
    """The path that a file:// URL names; other text as it is.

    Raises:
        ConfigError: it is a URL of another kind.
    """
    scheme, mark, rest = text.partition("://")
    if not mark and not re.match("(s3|gs|az|file):", text, re.IGNORECASE):
        return text
    if scheme.lower() != "file" or not rest.startswith("/"):
        raise ConfigError(f"{visible(text)}: takes s3://, gs://, az:// or file:///, or a folder")
    return unquote(rest)


def mirror_name(url: str) -> str:
    """Folder name of a URL's mirror, another for each URL."""
    plain = re.sub(r"[^\w.-]+", "-", url.partition("://")[2].strip("/"))
    return f"{plain}-{hashlib.sha256(url.encode()).hexdigest()[:8]}"


def cache_home(
    cache: str | Path,
    caches: Path = Path("caches"),
    mirror: str = "",
    worker: tuple[int, int] | None = None,
) -> Path:
    """Local folder of a cache: of a URL its mirror, which is brought up to date.

    Args:
        cache: folder or URL.
        caches: folder below which a URL has its mirror.
        mirror: the mirror, instead.
        worker: number of this process among those of a build: each has a mirror of its own.

    Raises:
        CacheError, ConfigError: as `Mirror.open`.
    """
    if not is_url(str(cache)):
        return Path(local_path(str(cache)))
    url = str(cache)
    folder = mirror or str(caches / mirror_name(url))
    return Mirror.open(url, Path(folder + (f"-worker{worker[0]}" if worker else ""))).folder


def address(home: Path) -> str:
    """How messages name the folder of a cache: a mirror by its URL."""
    mirror = Mirror.of(home)
    return mirror.url if mirror else str(home)


def unfinished(folder: Path) -> CacheIncomplete:
    """The error for a split's folder without a manifest."""
    home = address(folder.parent)
    return CacheIncomplete(
        f"{home}/{folder.name}: no finished cache; run (or run again) "
        f"`leak cache build --cache {home}`"
    )


class Mirror:
    """The mirror of a cache.

    Attributes:
        folder: local.
        url: of the cache.
        objects: the client.
        uploaded: how many objects a build of this process has written.
    """

    def __init__(self, folder: Path, url: str, known: Mapping[str, tuple[str, int]]) -> None:
        self.folder, self.url = folder, url.rstrip("/")
        self.objects, self.uploaded = ObjectStore(self.url), 0
        # By key: version, and the time in ns that a local copy has unless it was changed.
        self._known = dict(known)

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
        if mirror := cls.found(folder, url):
            return mirror
        mirror = cls(folder, url, {})
        if mirror.listed("", *_ORDER):
            raise CacheError(f"{url}: there is a cache already; choose another URL")
        mirror.save()
        return mirror

    @classmethod
    def open(cls, url: str, folder: Path) -> Mirror:
        """Bring manifests, commits and specs in a mirror up to date; shards that changed go.

        Raises:
            CacheError: the store cannot be reached or refuses; says why.
            ConfigError: obstore is not installed, or the URL is malformed.
        """
        mirror = cls.found(folder, url) or cls(folder, url, {})
        if not (folder / ORIGIN).exists():
            # A kill may have left partial files, whose names begin with a dot.
            if any(folder.glob("[!.]*")):
                raise CacheError(f"{folder}: holds other files; give another --cache-mirror")
            mirror.listed("", _MANIFEST)  # the folder is begun where the URL is right
            mirror.save()
        mirror.refresh()
        return mirror

    @classmethod
    def found(cls, folder: Path, url: str) -> Mirror | None:
        """The mirror of a URL in a folder, None without one; raises CacheError for another URL."""
        mirror = cls.of(folder)
        if mirror and mirror.url != url.rstrip("/"):
            raise CacheError(f"{folder}: mirrors {mirror.url}; take another folder")
        return mirror

    def refresh(self) -> None:
        """Bring manifests, commits and specs up to date; raises CacheError as `open`."""
        # Listed in the reverse order of writing, so that all that an object needs is listed, too.
        manifests = self.listed("", _MANIFEST)
        found = self.listed("store/commits", _COMMIT)
        found |= self.listed("store/columns", _SPEC, _ARRAY, _SHARD)
        self.update(manifests, list(manifests))
        self.update(found, [key for key in found if not _SHARD.fullmatch(key)])
        for key in set(self._known) - set(found) - set(manifests):
            (self.folder / key).unlink(missing_ok=True)
            del self._known[key]
        self.save()

    def fetch(self, paths: Iterable[Path]) -> None:
        """Copy objects whose local files are missing.

        Raises:
            CacheStale: one was replaced since the mirror was opened.
            CacheError: the store cannot be reached or refuses; says why.
        """
        keys = [path.relative_to(self.folder).as_posix() for path in paths]
        missing = [k for k in keys if k in self._known and not (self.folder / k).is_file()]
        on_threads(self._download, missing)

    def push(self) -> int:
        """Upload what the store lacks or has in another version; returns how many objects.

        Raises:
            CacheBusy: another process has written the same objects meanwhile.
            CacheError: the store cannot be reached or refuses; says why.
        """
        try:
            return self.upload(path for path in self.folder.rglob("*") if path.is_file())
        finally:
            self.save()

    def upload(self, files: Iterable[Path], ours: Callable[[], bool] = lambda: False) -> int:
        """Upload those files that are new or changed here; returns how many, raises as `push`.

        Args:
            files: in the mirror; others than those of a cache are left out.
            ours: whether shards, specs and commits that another process has written meanwhile may
                be replaced; asked after their version is known.
        """
        keys = sorted({path.relative_to(self.folder).as_posix() for path in files})
        changed = [key for key in keys if self._known.get(key, ("", 0))[1] != self._time(key)]
        count = 0
        for kind in _ORDER:
            todo = [key for key in changed if kind.fullmatch(key)]
            on_threads(partial(self._upload, ours=ours), todo)
            count += len(todo)
        return count

    def delete_missing(self) -> None:
        """Delete the manifests, commits and specs that were deleted here."""
        kinds = (_MANIFEST, _COMMIT, _SPEC, _ARRAY)
        self._delete(
            key
            for key in self._known
            if any(k.fullmatch(key) for k in kinds) and not (self.folder / key).exists()
        )

    def clear(self, split: str) -> None:
        """Delete all columns, and first of all the manifest of a split."""
        self._delete([f"{split}/manifest.json"])
        self._delete(self.objects.list("store"))

    def _delete(self, keys: Iterable[str]) -> None:
        gone = list(keys)
        self.objects.delete(gone)
        for key in gone:
            self._known.pop(key, None)
        self.save()

    def listed(self, folder: str, *kinds: re.Pattern[str]) -> dict[str, tuple[str, int]]:
        """Version and time of each object of these kinds in a folder; of all where it is empty."""
        found = self.objects.list(folder).items()
        return {key: one for key, one in found if any(kind.fullmatch(key) for kind in kinds)}

    def update(
        self,
        found: Mapping[str, tuple[str, int]],
        wanted: Iterable[str],
        advance: Advance = lambda count: None,
    ) -> None:
        """Take over the versions that were found; copy those of `wanted` that are new."""
        for key, (version, changed) in found.items():
            if self._known.get(key, ("", 0))[0] != version:
                (self.folder / key).unlink(missing_ok=True)
                self._known[key] = version, changed
        missing = [key for key in wanted if not (self.folder / key).is_file()]
        advance(len(found) - len(missing))
        on_threads(self._download, missing, advance)

    def _download(self, key: str) -> None:
        version, changed = self._known[key]
        data, path = self.objects.get(key, version), self.folder / key
        partial_copy = path.with_name(f".{path.name}.{token_hex(4)}")
        with self._writing():
            path.parent.mkdir(parents=True, exist_ok=True)
            replace_file(path, lambda file: file.write_bytes(data), partial_copy)
            os.utime(path, ns=(changed, changed))

    def _upload(self, key: str, ours: Callable[[], bool]) -> None:
        data, version = (self.folder / key).read_bytes(), self._known.get(key, ("", 0))[0]
        for last in (False, False, True):
            try:
                found = self.objects.put(key, data, version)
                break
            except CacheBusy:
                version = self.objects.read(key)[1]
                if last or _MANIFEST.fullmatch(key) or not ours():
                    raise
        self._known[key] = found, self._time(key)

    def _time(self, key: str) -> int:
        return (self.folder / key).stat().st_mtime_ns

    def save(self) -> None:
        """Note which versions there are."""
        known = dict(self._known)
        rows = [[key, *known[key]] for key in sorted(known)]
        with self._writing():
            self.folder.mkdir(parents=True, exist_ok=True)
            write_checked(self.folder / ORIGIN, {"url": self.url, "objects": rows})

    @contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise CacheError(
                f"{self.folder}: cannot be written ({error.strerror or error}): make room, or "
                "give another folder by --cache-mirror or --caches"
            ) from error
