"""Build a cache: one shard is one task, and a killed build goes on where it stopped."""

from __future__ import annotations

import hashlib
import json
import time
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import astuple, dataclass
from functools import partial
from itertools import islice
from pathlib import Path

import diffusers
import torch

from leakcache.dataset.index import DatasetIndex, Split
from leakcache.dct import dct_low
from leakcache.encoder.autoencoder import Encoder
from leakcache.errors import CacheCorrupt, CacheIncomplete, CacheStale, DataError
from leakcache.images.decode import Preprocessing
from leakcache.images.loader import hash_file, images_ahead, in_order, load_image
from leakcache.progress import Advance, track
from leakcache.store.cache import LatentCache
from leakcache.store.changes import Changes, find_changes, listed_otherwise
from leakcache.store.fold_leakcache_encode import ShardEncoder
from leakcache.store.fold_leakcache_finish import finish
from leakcache.store.fold_leakcache_reuse import ReusableLatents
from leakcache.store.manifest import CacheManifest, Encoding
from leakcache.store.workspace import DoneShard, Task, Workspace
from leakcache.store.zarr_shards import Latents, dct_side


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

    cache: LatentCache
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
        cache=LatentCache.open(folder),
        encoded=run.encoder.encoded,
        reused=run.encoder.reused,
        resumed=run.resumed,
        changes=changes,
        seconds=time.monotonic() - start,
    )


def _former_cache(workspace: Workspace, encoding: Encoding) -> LatentCache | None:
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
    return LatentCache(folder, manifest)


def _to_be_finished(workspace: Workspace, former: LatentCache, index: DatasetIndex) -> bool:
    return workspace.unfinished() is not None or listed_otherwise(former, index)


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

    def reuse(self, former: LatentCache | None, repair: bool) -> None:
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
            "diffusers": diffusers.__version__,
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
