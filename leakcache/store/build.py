"""Build a cache: one shard is one task, and a killed build goes on where it stopped."""

from __future__ import annotations

import hashlib
import json
import time
from collections import defaultdict
from collections.abc import Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import astuple, dataclass, replace
from functools import lru_cache, partial
from importlib.metadata import version
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import UInt8

from leakcache.dataset.index import DatasetIndex, ImageRecord, Split
from leakcache.dct import dct_low
from leakcache.encoder.autoencoder import Encoder
from leakcache.errors import CacheCorrupt, CacheIncomplete, CacheStale, DataError
from leakcache.images.decode import Preprocessing
from leakcache.images.loader import LoadedImage, hash_file, images_ahead, in_order, load_image
from leakcache.progress import Advance, track
from leakcache.store.cache import Cache, write_table
from leakcache.store.changes import Changes, find_changes, index_differs
from leakcache.store.manifest import CacheManifest, Encoding, images_hash
from leakcache.store.moments import Cell, LatentMoments, MomentTable
from leakcache.store.workspace import DoneShard, Task, Workspace
from leakcache.store.zarr_shards import Latents, ShardArrays, dct_side

# Latents that need not be encoded again, found by the content hash of their image.


class ReusableLatents:
    """Latents of the former cache and of builds that were set aside.

    All must come from the same encoding as the build that reuses them.
    """

    def __init__(self) -> None:
        self._where: dict[str, tuple[ShardArrays, int]] = {}
        self._shard = lru_cache(maxsize=2)(self._read)

    def add_cache(self, cache: Cache) -> None:
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


# Latents of one shard of images: loaded ahead on threads, encoded in batches.

BATCH = 8
"""Views of 256 × 256 pixels that go through the encoder at once."""
MEASURED = 1
"""Views on which a build measures the error of reduced precision: full precision is slow."""


def batch_views(latent_shape: tuple[int, ...]) -> int:
    """Views in a batch: fewer of large ones, so that memory does not grow with their size."""
    height, width = latent_shape[-2:]
    return max(1, min(BATCH, BATCH * 32 * 32 // (height * width)))


class ShardEncoder:
    """Turns shards of paths into latents and counts what it took.

    Attributes:
        encoded: images that went through the encoder.
        reused: images whose latents were found by their content hash.
        relative_error: root mean square error of reduced precision over that of the
            latents, on the first view; None at full precision.
    """

    def __init__(
        self,
        encoder: Encoder,
        latent_shape: tuple[int, int, int, int],
        stored: str,
        reusable: ReusableLatents,
    ) -> None:
        self.encoded = self.reused = 0
        self.relative_error: float | None = None
        self._encoder = encoder
        self._shape = latent_shape
        self._batch = batch_views(latent_shape)
        self._stored = stored
        self._reusable = reusable

    def encode(
        self, images: Iterable[LoadedImage], count: int, advance: Advance
    ) -> tuple[Latents, DoneShard]:
        """Latents of `count` images, zero where one is refused, and what was found of each."""
        latents: Latents = np.zeros((count, *self._shape), self._stored)
        found: list[LoadedImage] = []
        waiting: dict[int, UInt8[np.ndarray, "view height width 3"]] = {}
        for row, image in enumerate(images):
            if image.pixels is not None:
                waiting[row] = image.pixels
            elif not image.reason:
                latents[row] = self._reusable.get(image.sha256)
                self.reused += 1
            # Pixels are let go once they are encoded, so memory does not grow with the shard.
            found.append(replace(image, pixels=None))
            if (len(waiting) + 1) * self._shape[0] > self._batch:
                self._flush(waiting, latents)
            advance(1)
        self._flush(waiting, latents)
        return latents, _done(found, latents)

    def _flush(self, waiting: dict[int, np.ndarray], latents: Latents) -> None:
        if not waiting:
            return
        rows = list(waiting)
        views = torch.from_numpy(np.concatenate([waiting[row] for row in rows]))
        parts = [self._encoder.encode_bytes(part).cpu() for part in torch.split(views, self._batch)]
        if self.relative_error is None and self._encoder.precision != "fp32":
            self.relative_error = self._encoder.relative_error(views[:MEASURED])
        latents[rows] = torch.cat(parts).numpy().reshape(len(rows), *self._shape)
        self.encoded += len(rows)
        waiting.clear()


def _done(images: list[LoadedImage], latents: Latents) -> DoneShard:
    finite = np.isfinite(latents).all(axis=(1, 2, 3, 4))
    reasons = [
        image.reason or ("" if ok else "the encoder gave latents that are not finite")
        for image, ok in zip(images, finite, strict=True)
    ]
    # What is refused is stored as zeros, so that an array never holds a NaN.
    latents[~finite] = 0
    return DoneShard(
        tuple(image.sha256 for image in images),
        tuple(image.size for image in images),
        tuple(reasons),
    )


# The last step of a build: decide which images are accepted, then moments, table, manifest.


def finish(
    index: DatasetIndex,
    split: str,
    encoding: Encoding,
    folder: Path,
    done: Sequence[DoneShard],
    facts: dict[str, Any],
) -> CacheManifest:
    """Write table and moments beside the latents in `folder`; returns the manifest to publish.

    Raises:
        DataError: every image was refused.
    """
    records = index.records
    hashes = [sha256 for shard in done for sha256 in shard.sha256]
    sizes = [size for shard in done for size in shard.sizes]
    reasons = [reason for shard in done for reason in shard.reasons]
    encoded = [not reason for reason in reasons]
    _refuse_duplicates(records, hashes, reasons)
    accepted = np.array([not reason for reason in reasons])
    if not accepted.any():
        raise DataError(
            f"{index.root}: none of {len(records)} images can be used "
            f"(the first, {records[0].path}: {reasons[0]})"
        )
    arrays = ShardArrays.open(folder)
    columns: dict[str, list[Any]] = {
        name: [getattr(record, name) for record in records]
        for name in ("path", "label", "group", "fold")
    }
    columns |= {"sha256": hashes, "bytes": sizes}
    columns |= {"encoded": encoded, "accepted": accepted.tolist()}
    write_table(folder, columns, _moments(records, accepted, arrays))
    kept = [row for row in range(len(records)) if accepted[row]]
    refused = [(r.path, why) for r, why in zip(records, reasons, strict=True) if why]
    refused += [(reject.path, reject.reason) for reject in index.rejects]
    return CacheManifest(
        encoding=encoding,
        split=split,
        data=str(index.root),
        layout=index.layout,
        images_sha256=images_hash(
            (hashes[r], records[r].label, records[r].group, records[r].fold) for r in kept
        ),
        images=len(kept),
        latent_shape=arrays.latent_shape,
        classes=tuple(sorted({records[r].label for r in kept if records[r].fold != "open"})),
        unknown=tuple(sorted({records[r].label for r in kept if records[r].fold == "open"})),
        rejects=tuple(refused),
        facts=facts,
    )


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
                reasons[row] = f"the same content is labelled {other.label} in {other.path}"
        else:
            for row in same[1:]:
                reasons[row] = f"the same content as {first.path}"


def _moments(
    records: Sequence[ImageRecord], accepted: np.ndarray, arrays: ShardArrays
) -> MomentTable:
    total: dict[Cell, LatentMoments] = {}
    for shard in range(arrays.shards):
        latents, coefficients = arrays.read(shard), arrays.read_dct(shard)
        rows = arrays.rows(shard)
        members = defaultdict(list)
        for offset, record in enumerate(records[rows]):
            if accepted[rows.start + offset]:
                members[record.label, record.fold].append(offset)
        for cell, offsets in members.items():
            part = LatentMoments.of(latents[offsets], coefficients[offsets])
            total[cell] = total[cell].merge(part) if cell in total else part
    return MomentTable.of(total)


@dataclass(frozen=True)
class BuildReport:
    """What a build did.

    Attributes:
        cache: the finished cache.
        encoded: images that went through the encoder in this run.
        reused: images whose latents were found by their content hash.
        resumed: images in shards that an earlier, interrupted run had finished.
        changes: what differs from the cache that was here before.
        seconds: wall time.
    """

    cache: Cache
    encoded: int
    reused: int
    resumed: int
    changes: Changes
    seconds: float


def build_cache(
    index: DatasetIndex,
    encoder: Encoder,
    folder: Path,
    *,
    split: Split = "closed",
    preprocessing: Preprocessing | None = None,
    stored: str = "float16",
    fresh: bool = False,
    repair: bool = False,
) -> BuildReport:
    """Bring the cache in `folder` up to date with the images of `index`.

    Only images whose content is not in the cache are encoded. To resume after a kill, call
    it again: finished shards stay as they are, and the arrays come out byte for byte as
    without the kill.

    Args:
        index: the images; those of its `split` are cached.
        encoder: whose latents.
        folder: where the cache is or will be.
        split: `closed`, `open` or `all`.
        preprocessing: how pixels are cut; `resize` to 256 by default.
        stored: `float16` or `float32`.
        fresh: throw away what is there.
        repair: read the finished cache through its checksums and encode again what is lost.

    Raises:
        CacheStale: the folder holds latents of other weights or another preprocessing.
        CacheError: another build is running there.
        DataError: no image is left to cache.
    """
    start = time.monotonic()
    chosen = index.select(split)
    if not chosen.records:
        raise DataError(f"{index.root}: no images in the {split} split; see `leak data index`")
    encoding = Encoding(
        encoder.identity, preprocessing or Preprocessing(), encoder.precision, stored
    )
    workspace = Workspace(folder)
    with workspace.locked():
        if fresh:
            workspace.clear()
        workspace.recover()
        former = _former_cache(workspace, encoding)
        changes = find_changes(former, chosen)
        if former and not (changes or repair or _to_be_finished(workspace, former, chosen)):
            return BuildReport(former, 0, 0, 0, changes, time.monotonic() - start)
        run = _Run(chosen, encoder, encoding, workspace)
        run.reuse(former, repair)
        done = run.shards()
        facts = run.facts(time.monotonic() - start)
        workspace.publish(finish(chosen, split, encoding, workspace.building, done, facts))
    return BuildReport(
        cache=Cache.open(folder),
        encoded=run.encoder.encoded,
        reused=run.encoder.reused,
        resumed=run.resumed,
        changes=changes,
        seconds=time.monotonic() - start,
    )


def _former_cache(workspace: Workspace, encoding: Encoding) -> Cache | None:
    """The finished cache that is here; refuses one of another encoding."""
    folder = workspace.folder
    task = workspace.unfinished()
    if task and task.encoding != encoding.fingerprint:
        raise CacheStale(
            f"{folder}: an unfinished build ({task.encoding_words}) is here; "
            "choose another --cache or throw it away with --fresh"
        )
    try:
        manifest = CacheManifest.read(folder)
    except CacheIncomplete:
        return None
    if manifest.encoding.fingerprint != encoding.fingerprint:
        raise CacheStale(
            f"{folder}: was built with {manifest.encoding.difference(encoding)}; "
            "choose another --cache or throw it away with --fresh"
        )
    return Cache(folder, manifest)


def _to_be_finished(workspace: Workspace, former: Cache, index: DatasetIndex) -> bool:
    return workspace.unfinished() is not None or index_differs(former, index)


class _Run:
    """One run over the shards of a task."""

    def __init__(
        self, index: DatasetIndex, encoder: Encoder, encoding: Encoding, workspace: Workspace
    ) -> None:
        self.resumed = 0
        self._paths = [index.root / record.path for record in index.records]
        self._encoding = encoding
        self._workspace = workspace
        self._device = str(encoder.device)
        self._reusable = ReusableLatents()
        shape = latent_shape(encoding)
        self.encoder = ShardEncoder(encoder, shape, encoding.stored, self._reusable)
        self._arrays = workspace.begin(
            _task(index, encoding), len(self._paths), shape, encoding.stored
        )

    def reuse(self, former: Cache | None, repair: bool) -> None:
        """Take latents from the former cache and from builds that were set aside."""
        self._reusable.add_set_aside(self._workspace, self._encoding.fingerprint)
        if former:
            self._reusable.add_cache(former)
        if repair:
            self._reusable.drop_damaged()

    def shards(self) -> list[DoneShard]:
        """Finish every shard that is not finished; returns what all of them hold."""
        with track("encoding", len(self._paths), "images") as advance:
            found = self._resume(advance)
            missing = [shard for shard in range(self._arrays.shards) if shard not in found]
            paths = (path for shard in missing for path in self._paths_of(shard))
            load = partial(
                load_image, preprocessing=self._encoding.preprocessing, known=self._reusable
            )
            # One stream over all shards: the next shard is loaded, and the last one written,
            # while this one is encoded.
            ahead = images_ahead(self._encoding.preprocessing)
            with closing(in_order(load, paths, ahead)) as images, ThreadPoolExecutor(1) as writer:
                written: Future[None] | None = None
                for shard in missing:
                    count = len(self._paths_of(shard))
                    latents, found[shard] = self.encoder.encode(
                        islice(images, count), count, advance
                    )
                    if written:
                        written.result()
                    written = writer.submit(self._write, shard, latents, found[shard])
                if written:
                    written.result()
        return [found[shard] for shard in range(self._arrays.shards)]

    def facts(self, seconds: float) -> dict[str, object]:
        """How the build went, for the manifest."""
        return {
            "seconds": round(seconds, 3),
            "encoded": self.encoder.encoded,
            "reused": self.encoder.reused,
            "relative_latent_error": self.encoder.relative_error,
            "torch": torch.__version__,
            "diffusers": version("diffusers"),
            "device": self._device,
        }

    def _resume(self, advance: Advance) -> dict[int, DoneShard]:
        found = {}
        for shard in range(self._arrays.shards):
            done = self._intact(shard)
            if done:
                found[shard] = done
                self.resumed += len(done.sha256)
                advance(len(done.sha256))
        return found

    def _intact(self, shard: int) -> DoneShard | None:
        """What a finished shard holds, if its bytes are sound and its images unchanged."""
        done = self._workspace.done(shard)
        if done is None or tuple(in_order(hash_file, self._paths_of(shard))) != done.sha256:
            return None
        try:
            self._arrays.check(shard)
        except CacheCorrupt:
            return None
        return done

    def _paths_of(self, shard: int) -> list[Path]:
        return self._paths[self._arrays.rows(shard)]

    def _write(self, shard: int, latents: Latents, done: DoneShard) -> None:
        # From the latents as stored, so that a reused latent gives the same coefficients.
        stored = torch.from_numpy(latents).float()
        coefficients = dct_low(stored, dct_side(latents.shape[1:])).numpy()
        self._arrays.write(shard, latents, coefficients)
        self._workspace.mark_done(shard, done)


def latent_shape(encoding: Encoding) -> tuple[int, int, int, int]:
    """View, channel, height and width of one image's latents."""
    side = encoding.preprocessing.size // Encoder.DOWNSCALE
    return (encoding.preprocessing.views, encoding.autoencoder.channels, side, side)


def _task(index: DatasetIndex, encoding: Encoding) -> Task:
    rows = json.dumps([astuple(record) for record in index.records])
    words = f"{encoding.autoencoder.name}, {encoding.preprocessing.name}, {encoding.precision}"
    return Task(encoding.fingerprint, words, hashlib.sha256(rows.encode()).hexdigest())
