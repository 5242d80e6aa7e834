"""Build a cache: one shard is one task, and a killed build goes on where it stopped."""

from __future__ import annotations

import hashlib
import json
import time
from dataclasses import astuple, dataclass
from pathlib import Path

import diffusers
import torch

from leakcache.autoencoder import Encoder
from leakcache.changes import Changes, find_changes
from leakcache.dct import dct_low
from leakcache.encode import ShardEncoder
from leakcache.errors import CacheError, CacheStale, DataError
from leakcache.finish import finish
from leakcache.images import Preprocessing
from leakcache.index import DatasetIndex, Split
from leakcache.loader import hash_file, in_order
from leakcache.manifest import CacheManifest, Encoding
from leakcache.progress import track
from leakcache.reuse import ReusableLatents
from leakcache.store import SHARD, LatentCache, Latents, dct_side
from leakcache.workspace import DoneShard, Task, Workspace


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
        if former and not (changes or repair or workspace.unfinished()):
            return BuildReport(former, 0, 0, 0, changes, time.monotonic() - start)
        run = _Run(chosen, encoder, encoding, workspace, _reusable(workspace, former, repair))
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
    except CacheError:
        return None
    if manifest.encoding.fingerprint != encoding.fingerprint:
        raise CacheStale(
            f"{folder}: was built with {manifest.encoding.difference(encoding)}; "
            "choose another --cache or throw it away with --fresh"
        )
    return LatentCache(folder, manifest)


def _reusable(workspace: Workspace, former: LatentCache | None, repair: bool) -> ReusableLatents:
    reusable = ReusableLatents()
    reusable.add_set_aside(workspace)
    if former:
        reusable.add_cache(former)
    if repair:
        reusable.drop_damaged()
    return reusable


class _Run:
    """One run over the shards of a task."""

    def __init__(
        self,
        index: DatasetIndex,
        encoder: Encoder,
        encoding: Encoding,
        workspace: Workspace,
        reusable: ReusableLatents,
    ) -> None:
        self.resumed = 0
        self._paths = [index.root / record.path for record in index.records]
        self._workspace = workspace
        self._device = str(encoder.device)
        shape = latent_shape(encoding)
        self.encoder = ShardEncoder(
            encoder, encoding.preprocessing, shape, encoding.stored, reusable
        )
        self._arrays = workspace.begin(
            _task(index, encoding), len(self._paths), shape, encoding.stored
        )

    def shards(self) -> list[DoneShard]:
        """Finish every shard that is not finished; returns what all of them hold."""
        found = []
        with track("encoding", len(self._paths), "images") as advance:
            for shard in range(self._arrays.shards):
                paths = self._paths[shard * SHARD : (shard + 1) * SHARD]
                done = self._intact(shard, paths)
                if done:
                    self.resumed += len(paths)
                    advance(len(paths))
                else:
                    latents, done = self.encoder.encode(paths, advance)
                    self._write(shard, latents, done)
                found.append(done)
        return found

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

    def _intact(self, shard: int, paths: list[Path]) -> DoneShard | None:
        done = self._workspace.done(shard)
        if done and tuple(in_order(hash_file, paths)) == done.sha256:
            return done
        return None

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
