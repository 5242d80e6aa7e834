"""Build a cache: one pass over the files of a split, which a killed build resumes."""

from __future__ import annotations

import shutil
import time
from collections import defaultdict
from collections.abc import Iterable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch

from leakcache.columns.table import columns_named
from leakcache.dataset.findings import join_equal_pixels, refuse_vanished
from leakcache.dataset.index import DatasetIndex, Finding, ImageRecord, Split
from leakcache.encoder.autoencoder import Encoder
from leakcache.errors import CacheCorrupt, CacheIncomplete, CacheStale, DataError, ImageError
from leakcache.files import locked
from leakcache.images.decode import Preprocessing
from leakcache.names import visible
from leakcache.progress import Advance, track
from leakcache.store.cache import Cache
from leakcache.store.changes import Changes, find_changes
from leakcache.store.column_store import ColumnStore, clear, repair_metadata
from leakcache.store.manifest import FILE, CacheManifest, Encoding, refuse_other_format
from leakcache.store.one_pass import ImageFile, OnePass, ReadFile

Z0 = ("z0",)
_FORMER_FORMAT = ("latents.zarr", "building", "superseded", "discarded")


@dataclass(frozen=True)
class BuildReport:
    """What a build did.

    Attributes:
        cache: the finished cache.
        computed: images of which something was computed in this run.
        stored: images that had all wanted columns before.
        columns: number of images by the column that was computed of them.
        repaired: one line for each damage that was found.
        changes: what differs from the cache that was here before.
        findings: what only the decoded pixels tell, such as images that repeat others.
        seconds: wall time.
    """

    cache: Cache
    computed: int
    stored: int
    columns: dict[str, int]
    repaired: tuple[str, ...]
    changes: Changes
    findings: tuple[Finding, ...]
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
    advance: Advance | None = None,
) -> BuildReport:
    """Bring the cache in `folder` up to date with the images of `index`.

    Only columns that an image lacks are computed. To resume after a kill, call it again: what is
    stored stays as it is, and the arrays come out byte for byte as without the kill.

    Args:
        index: the images; those of its `split` are cached.
        encoder: whose latents and activations.
        folder: where the cache of this split is or will be; its parent holds the columns, which
            all splits there share.
        split: `closed`, `open` or `all`.
        preprocessing: of the views that latents are encoded from; `resize` to 256 by default.
        stored: type of stored latents, `float16` or `float32`.
        columns: names in `leakcache.columns.table`.
        fresh: throw away all columns there and what an older version wrote.
        repair: read what is stored through its checksums and compute again what is lost.
        advance: called with the number of images done; None for a progress bar of its own.

    Raises:
        CacheStale: the folder holds latents of other weights or another preprocessing, has the
            format of an older version, or its images were decoded by other libraries.
        CacheError: another build is running there.
        DataError: no image is left to cache, or none of a class.
    """
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
    repaired = _prepare(folder, fresh=fresh, repair=repair)
    former = _former_manifest(folder, encoding, repair)
    store = ColumnStore(folder.parent)
    files = [ImageFile(index.root / r.path, r.fold == "train") for r in chosen.records]
    bar = nullcontext(advance) if advance else track("computing", len(files), "images")
    with store.writing(), bar as done:
        if repair:
            damaged = store.damaged()
            repaired += damaged.values()
            store.forget(damaged)
        run = OnePass(store, columns_named(columns), encoding, encoder, done)
        read = run.run(files)
        computed = run.images
        chosen, table, refused, findings = _accepted(chosen, read)
        _fill_moved(run, chosen, files)
        facts = _facts(run, encoder, former, time.monotonic() - start)
        manifest = CacheManifest(
            encoding,
            split,
            str(chosen.root),
            chosen.layout,
            table,
            refused,
            facts,
            source=str(chosen.source or chosen.root),
            reading=chosen.reading,
        )
        if former is None or replace(former, facts=facts) != manifest:
            manifest.write(folder)
    return BuildReport(
        cache=Cache.open(folder),
        computed=computed,
        stored=len(files) - computed - sum(bool(file.reason) for file in read),
        columns=run.computed,
        repaired=tuple(repaired),
        changes=find_changes(former, manifest),
        findings=findings,
        seconds=time.monotonic() - start,
    )


def ensure_columns(
    caches: Iterable[Cache], columns: Iterable[str], device: str = "cpu", *, fill: bool
) -> None:
    """Make sure that caches have columns; raises as `fill_columns` and `Cache.require`.

    Args:
        caches: opened caches.
        columns: names in `leakcache.columns.table`.
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
        columns: names in `leakcache.columns.table`.
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
        read = OnePass(cache.store, wanted, encoding, encoder, advance).run(files)
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


def _prepare(folder: Path, *, fresh: bool, repair: bool) -> list[str]:
    """Throw away or mend what is there; returns one line for each damage."""
    home = folder.parent
    if fresh or repair:
        with locked(home):
            if repair:
                return repair_metadata(home)
            clear(home)
            for path in (home / "rows", *(folder / name for name in _FORMER_FORMAT)):
                shutil.rmtree(path, ignore_errors=True)
            (folder / FILE).unlink(missing_ok=True)
    return []


def _former_manifest(folder: Path, encoding: Encoding, repair: bool) -> CacheManifest | None:
    """The manifest that is here; refuses one of another encoding."""
    refuse_other_format(folder)
    try:
        former = CacheManifest.read(folder)
    except CacheIncomplete:
        return None
    except CacheCorrupt:
        if repair:
            return None
        raise
    if former.encoding.fingerprint != encoding.fingerprint:
        raise CacheStale(
            f"{folder}: was built with {former.encoding.difference(encoding)}; "
            "choose another --cache or throw it away with --fresh"
        )
    return former


def _facts(
    run: OnePass, encoder: Encoder, former: CacheManifest | None, seconds: float
) -> dict[str, Any]:
    """How the build went; the former facts where nothing was computed."""
    if former and not run.images:
        return former.facts
    error = run.relative_error
    if error is None and former:
        error = former.facts.get("relative_latent_error")
    return {
        "seconds": round(seconds, 3),
        "computed": run.images,
        "relative_latent_error": error,
        "torch": str(torch.__version__),
        "diffusers": version("diffusers"),
        "device": str(encoder.device),
    }


def _accepted(
    index: DatasetIndex, read: Sequence[ReadFile]
) -> tuple[DatasetIndex, dict[str, list[Any]], tuple[tuple[str, str], ...], tuple[Finding, ...]]:
    """Decide which images are accepted, and put equal pixels into one group.

    Returns:
        The index with groups and folds as they are now; the table of the accepted images; path
        and reason of the others; findings on equal pixels.

    Raises:
        DataError: every image was refused, or every image of a class.
    """
    records = index.records
    reasons = [file.reason for file in read]
    _refuse_duplicates(records, [file.sha256 for file in read], reasons)
    files = {record.path: file for record, file in zip(records, read, strict=True)}
    refused = {r.path: why for r, why in zip(records, reasons, strict=True) if why}
    if len(refused) == len(records):
        raise DataError(
            f"{index.root}: none of {len(records)} images can be used "
            f"(the first, {visible(records[0].path)}: {reasons[0]})"
        )
    refuse_vanished(index.root, records, refused)
    pixels = {p: f.pixels for p, f in files.items() if f.pixels and p not in refused}
    index, findings = join_equal_pixels(index, pixels)
    kept = [record for record in index.records if record.path not in refused]
    names = ("path", "label", "group", "fold")
    table: dict[str, list[Any]] = {n: [getattr(record, n) for record in kept] for n in names}
    table["sha256"] = [files[record.path].sha256 for record in kept]
    table["bytes"] = [files[record.path].size for record in kept]
    rejects = [*refused.items(), *((reject.path, reject.reason) for reject in index.rejects)]
    return index, table, tuple(rejects), findings


def _fill_moved(run: OnePass, index: DatasetIndex, files: Sequence[ImageFile]) -> None:
    """Fill the columns of images that came into the training fold after their pixels were known."""
    before = {file.path for file in files if file.training}
    now = [index.root / record.path for record in index.records if record.fold == "train"]
    moved = [ImageFile(path, training=True) for path in now if path not in before]
    if moved:
        run.run(moved)


def _refuse_duplicates(
    records: Sequence[ImageRecord], hashes: Sequence[str], reasons: list[str]
) -> None:
    """Refuse content under two labels altogether, and content seen before under one."""
    rows = defaultdict(list)
    for row, sha256 in enumerate(hashes):
        if not reasons[row]:
            rows[sha256].append(row)
    for same in rows.values():
        first = records[same[0]]
        labels = {records[row].label for row in same}
        if len(labels) > 1:
            for row in same:
                other = next(records[o] for o in same if records[o].label != records[row].label)
                reasons[row] = (
                    f"the same content is labelled {visible(other.label)} in {visible(other.path)}"
                )
        else:
            for row in same[1:]:
                reasons[row] = f"the same content as {visible(first.path)}"
