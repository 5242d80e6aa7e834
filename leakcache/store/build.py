"""Build a cache: one pass over the files of a split, which a killed build resumes."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from leakcache.dataset.index import DatasetIndex, Finding, ImageRecord, Split, read_index
from leakcache.encoder.autoencoder import Encoder
from leakcache.errors import CacheCorrupt, CacheStale, ConfigError, DataError, ImageError
from leakcache.files import locked, write_checked
from leakcache.images.archive import archive_of
from leakcache.images.decode import Preprocessing
from leakcache.processes import RayPool
from leakcache.progress import Advance, track
from leakcache.store.build_plan import close_other_plan
from leakcache.store.cache import Cache, Changes, find_changes
from leakcache.store.column_store import STORE, ColumnStore, read_commit
from leakcache.store.columns import COLUMNS, Cut, columns_named
from leakcache.store.manifest import FILE, CacheManifest, Encoding
from leakcache.store.one_pass import ImageFile, OnePass
from leakcache.store.remote import Mirror
from leakcache.store.remote_build import RemoteSession
from leakcache.store.session import BuildSession, Publication, former_manifest, plan_identity
from leakcache.store.zarr_column import ZarrColumn

Z0 = ("z0",)
_FORMER_FORMAT = ("latents.zarr", "building", "superseded", "discarded")


@dataclass(frozen=True)
class BuildReport:
    """What a build did.

    Attributes:
        cache: the finished cache.
        computed: images of which something was computed in this run, by this process.
        stored: images whose wanted columns were there before or came from other processes.
        columns: number of images by the column that was computed of them.
        repaired: one line for each damage that was found.
        changes: what differs from the cache that was here before.
        findings: what only the decoded pixels tell, such as images that repeat others.
        objects: how many objects this process wrote to an object store.
        seconds: wall time.
    """

    cache: Cache
    computed: int
    stored: int
    columns: dict[str, int]
    repaired: tuple[str, ...]
    changes: Changes
    findings: tuple[Finding, ...]
    objects: int
    seconds: float


def build_cache(
    index: DatasetIndex,
    encoder: Encoder,
    folder: Path,
    *,
    split: Split = "closed",
    preprocessing: Preprocessing | None = None,
    stored: str = "float16",
    columns: Iterable[str] = Z0,
    fresh: bool = False,
    repair: bool = False,
    worker: tuple[int, int] | None = None,
    pool: RayPool | None = None,
    upload: bool = False,
    advance: Advance | None = None,
) -> BuildReport:
    """Bring the cache in `folder` up to date with the images of `index`.

    Only columns that an image lacks are computed. To resume after a kill, call it again: what is
    stored stays as it is, and the arrays come out byte for byte as without the kill.

    Several processes, on one host or many, build one cache together where each has the same
    images, settings and folder, and a `worker` of its own. The arrays come out byte for byte as
    those of one process. The last one writes the manifest; each returns when it is written.

    Args:
        index: the images; those of its `split` are cached.
        encoder: whose latents and activations.
        folder: where the cache of this split is or will be; its parent holds the columns, which
            all splits there share.
        split: `closed`, `open` or `all`.
        preprocessing: of the views that latents are encoded from; `resize` to 256 by default.
        stored: type of stored latents, `float16` or `float32`.
        columns: names in `leakcache.store.columns`.
        fresh: throw away all columns there and what an older version wrote.
        repair: read what is stored through its checksums and compute again what is lost.
        worker: number of this process and how many there are; None where it is alone and refuses
            others. The numbers only spread the work: any process takes over what a dead one left.
        pool: actors that compute in place of this process. Where they compute alike (all on CPUs,
            or on GPUs of one kind), the arrays come out as those of one process too.
        upload: where the parent of the folder mirrors an object store, upload all that is computed,
            and share the work with other processes that build the same there.
        advance: called with the number of images done; None for a progress bar of its own.

    Raises:
        CacheStale: the folder holds latents of other weights or another preprocessing, has the
            format of an older version, or its images were decoded by other libraries.
        CacheError: another build is running there.
        ConfigError: `fresh` or `repair` with a worker.
        DataError: no image is left to cache, or none of a class.
    """
    if worker and (fresh or repair):
        raise ConfigError("--fresh and --repair need the cache alone: build without --worker first")
    if worker and pool:
        raise ConfigError("--engine ray starts its own workers: leave out --worker")
    start = time.monotonic()
    chosen = index.select(split)
    if not chosen.records:
        raise DataError(f"{index.root}: no images in the {split} split; see `leak data index`")
    encoding = Encoding(
        encoder.identity,
        preprocessing or Preprocessing(),
        encoder.precision,
        stored,
        encoder.runtime,
    )
    repaired = _prepare(folder, fresh=fresh, repair=repair, upload=upload)
    former = former_manifest(folder, encoding, repair)
    store = ColumnStore(folder.parent)
    repaired += _forget_damaged(store) if repair else []
    chosen = replace(chosen, records=_reading_order(chosen))
    files = [ImageFile(index.root / r.path, r.fold == "train") for r in chosen.records]
    wanted = columns_named(columns)
    identity = plan_identity(chosen, files, wanted, encoding)
    publication = Publication(chosen, encoding, encoder, folder, split, former, identity, start)
    bar = nullcontext(advance) if advance else track("computing", len(files), "images")
    with bar as done:
        part = (store, files, wanted, encoding, encoder, identity, worker, pool, done)
        mirror = store.mirror if upload else None
        session = RemoteSession(*part, mirror) if mirror else BuildSession(*part)
        run = session.run(publication)
    cache, computed = Cache.open(folder), run.images if run else 0
    return BuildReport(
        cache=cache,
        computed=computed,
        stored=max(0, len(cache) - computed),
        columns=run.computed if run else {column.name: 0 for column in wanted},
        repaired=tuple(repaired),
        changes=find_changes(former, cache.manifest),
        findings=publication.findings,
        objects=mirror.uploaded if mirror else 0,
        seconds=time.monotonic() - start,
    )


def _forget_damaged(store: ColumnStore) -> list[str]:
    """Leave damaged shards out of the store; returns one line for each."""
    with store.writing():
        damaged = store.damaged()
        store.forget(damaged)
    return list(damaged.values())


def _reading_order(index: DatasetIndex) -> tuple[ImageRecord, ...]:
    """Images in archives one archive after another, training images first; files as indexed."""
    if not any(archive_of(index.root / record.path) for record in index.records):
        return index.records
    return tuple(sorted(index.records, key=lambda r: (r.fold != "train", r.path)))


def ensure_columns(
    caches: Iterable[Cache], columns: Iterable[str], device: str = "cpu", *, fill: bool
) -> None:
    """Make sure that caches have columns; raises as `fill_columns` and `Cache.require`.

    Args:
        caches: opened caches.
        columns: names in `leakcache.store.columns`.
        device: where the encoder runs.
        fill: compute what is missing, instead of refusing it.
    """
    names = list(columns)
    for cache in caches:
        if fill:
            fill_columns(cache, names, device)
        else:
            cache.require(names)


def fill_columns(cache: Cache, columns: Iterable[str], device: str = "cpu") -> None:
    """Compute columns that the images of a finished cache lack.

    Args:
        cache: whose images, and whose autoencoder and precision.
        columns: names in `leakcache.store.columns`.
        device: where the encoder runs.

    Raises:
        CacheStale: an image file or the autoencoder has changed since the cache was built.
        WeightsError: the autoencoder is not on this machine any more.
        ImageError: a column cannot be computed of an image.
    """
    wanted = columns_named(columns)
    rows = {row for column in wanted for row in _lacking(cache, column.name).tolist()}
    if not rows:
        return
    encoding, root = cache.manifest.encoding, Path(cache.manifest.data)
    encoder = encoding.encoder(device)
    places = sorted(rows)
    files = [ImageFile(root / str(cache.paths[r]), cache.folds[r] == "train") for r in places]
    with cache.store.writing(), track("computing", len(files), "images") as advance:
        read = OnePass(cache.store, wanted, encoding, encoder, advance).fill(files)
    for row, file, found in zip(places, files, read, strict=True):
        if not found.sha256:
            raise CacheStale(f"{file.path}: {found.reason} any more; build the cache again")
        if found.sha256 != cache.hashes[row]:
            raise CacheStale(f"{file.path}: has changed since the cache was built; build it again")
        if found.reason:
            raise ImageError(f"{file.path}: {found.reason}")


def _lacking(cache: Cache, name: str) -> np.ndarray:
    rows = cache.eligible(columns_named([name])[0])
    return rows[[not cache.has(name, rows[place : place + 1]) for place in range(len(rows))]]


def _prepare(folder: Path, *, fresh: bool, repair: bool, upload: bool) -> list[str]:
    """Throw away or mend what is there; returns one line for each damage."""
    home = folder.parent
    if fresh or repair:
        with locked(home):
            close_other_plan(home / STORE)
            mirror = Mirror.of(home) if upload else None
            if repair:
                found = [*repair_metadata(home), *_remove_damaged_manifests(folder)]
                if mirror:
                    mirror.delete_missing()
                return found
            if mirror:
                mirror.clear(folder.name)
            shutil.rmtree(home / STORE, ignore_errors=True)
            for path in (home / "rows", *(folder / name for name in _FORMER_FORMAT)):
                shutil.rmtree(path, ignore_errors=True)
            (folder / FILE).unlink(missing_ok=True)
    return []


def repair_metadata(home: Path) -> list[str]:
    """Remove what cannot be read of columns and commits; returns one line for each."""
    found = []
    for path in sorted((home / STORE).glob("commits/[0-9]*.json")):
        try:
            read_commit(path)
        except CacheCorrupt as error:
            path.unlink()
            found.append(str(error))
    for folder in sorted((home / STORE).glob("columns/*")):
        try:
            ZarrColumn.open(folder)
        except CacheCorrupt as error:
            shutil.rmtree(folder)
            found.append(str(error))
    columns = {folder.name for folder in (home / STORE).glob("columns/*")}
    for path in sorted((home / STORE).glob("commits/[0-9]*.json")):
        commit = read_commit(path)
        kept = {key: shard for key, shard in commit.columns.items() if key in columns}
        if kept != commit.columns:
            write_checked(path, vars(replace(commit, columns=kept)))
    return found


def _remove_damaged_manifests(folder: Path) -> list[str]:
    """Remove those of the other splits, which their own command writes again; one line for each."""
    found = []
    for path in sorted(folder.parent.glob(f"*/{FILE}")):
        if path.parent != folder:
            try:
                CacheManifest.read(path.parent)
            except CacheCorrupt as error:
                path.unlink()
                found.append(str(error))
    return found


def open_set_builds(
    closed: Cache, roots: Sequence[str | Path], device: str = "cpu"
) -> list[BuildReport]:
    """Build, or bring up to date, the caches of the open set, with the columns of the closed one.

    Args:
        closed: decides autoencoder, preprocessing and types.
        roots: folders of unknown generators; without any, the open set of the closed cache's own
            data, if it has one.
        device: where to encode what is missing.

    Raises:
        DataError: a folder holds no images, or two have the same name.
        CacheStale: the autoencoder has other weights than when the closed cache was built.
    """
    indices = {
        f"open-{Path(root).resolve().name}": read_index(Path(root), open_set=True) for root in roots
    }
    if len(indices) < len(roots):
        raise DataError("two folders given with --open have the same name; rename one")
    if not roots and (own := own_open_set(closed)):
        indices = {"open": own}
    encoder = closed.manifest.encoding.encoder(device) if indices else None
    return [
        build_alike(closed, index, encoder, closed.path.parent / name, split="open")
        for name, index in indices.items()
        if encoder
    ]


def build_alike(
    closed: Cache, index: DatasetIndex, encoder: Encoder, folder: Path, *, split: Split
) -> BuildReport:
    """A cache of other images, encoded as those of a closed one; raises as `build_cache`."""
    encoding = closed.manifest.encoding
    return build_cache(
        index,
        encoder,
        folder,
        split=split,
        preprocessing=encoding.preprocessing,
        stored=encoding.stored,
        columns=shared_columns(closed),
    )


def shared_columns(closed: Cache) -> list[str]:
    """Columns of a closed cache that images of other folds have too, pixels left aside."""
    return [
        name
        for name, column in COLUMNS.items()
        if not (column.training_only or isinstance(column, Cut)) and closed.has(name)
    ]


def own_open_set(closed: Cache) -> DatasetIndex | None:
    """The unknown classes of a closed cache's own data; None without any, or where that is gone."""
    manifest = closed.manifest
    try:
        found = read_index(Path(manifest.source or manifest.data), **manifest.reading)
    except DataError:
        return None
    found = found.select("open")
    return found if found.records else None
