"""Where an unfinished build lives, which of its shards are done, and how it becomes the cache.

DIR/manifest.json        written last: the cache is finished
DIR/latents.zarr         its arrays
DIR/building/            the same two, while a build runs or after it was killed
DIR/building/task.json   what that build is of
DIR/building/done/7.json shard 7 is on disk, and these were its images
DIR/superseded/          an older unfinished build, kept for the latents it holds
"""

from __future__ import annotations

import fcntl
import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from leakcache.errors import CacheError
from leakcache.manifest import FILE, CacheManifest, write_json
from leakcache.store import ARRAYS, ShardArrays


@dataclass(frozen=True)
class DoneShard:
    """What a finished shard holds, one entry per row.

    Attributes:
        sha256: content hashes; empty where a file could not be read.
        sizes: bytes of each file.
        reasons: why a row was refused; empty where it was not.
    """

    sha256: tuple[str, ...]
    sizes: tuple[int, ...]
    reasons: tuple[str, ...]


@dataclass(frozen=True)
class Task:
    """What a build is of.

    Attributes:
        encoding: fingerprint of how images become latents.
        encoding_words: the same for people.
        images: hash of the paths, labels, groups and folds.
    """

    encoding: str
    encoding_words: str
    images: str


class Workspace:
    """The folder of one cache while it is built."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.building = folder / "building"
        self.superseded = folder / "superseded"

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Keep other builds out of this folder; raises `CacheError` where one is running."""
        self.folder.mkdir(parents=True, exist_ok=True)
        with (self.folder / ".lock").open("w") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                raise CacheError(
                    f"{self.folder}: another build is writing here; wait for it or stop it"
                ) from error
            yield

    def clear(self) -> None:
        """Forget everything, finished or not."""
        (self.folder / FILE).unlink(missing_ok=True)
        for path in (self.building, self.superseded, self.folder / ARRAYS):
            shutil.rmtree(path, ignore_errors=True)

    def unfinished(self) -> Task | None:
        """What the unfinished build here is of; None where there is none."""
        path = self.building / "task.json"
        return Task(**json.loads(path.read_text(encoding="utf-8"))) if path.is_file() else None

    def begin(
        self, task: Task, images: int, latent_shape: tuple[int, int, int, int], stored: str
    ) -> ShardArrays:
        """Resume the unfinished build of this very task, or start one.

        An unfinished build of other images is set aside, so that no latent is lost.
        """
        if self.unfinished() == task:
            return ShardArrays.open(self.building, "r+")
        if self.building.exists():
            shutil.rmtree(self.superseded, ignore_errors=True)
            self.building.rename(self.superseded)
        (self.building / "done").mkdir(parents=True)
        arrays = ShardArrays.create(self.building, images, latent_shape, stored)
        write_json(self.building / "task.json", asdict(task))
        return arrays

    def mark_done(self, shard: int, done: DoneShard) -> None:
        """Record that a shard is on disk; after this it is never written again."""
        write_json(self.building / "done" / f"{shard}.json", asdict(done))

    def done(self, shard: int) -> DoneShard | None:
        """What a finished shard holds; None where it is not finished."""
        return _read_done(self.building / "done" / f"{shard}.json")

    def set_aside(self) -> Iterator[tuple[int, DoneShard]]:
        """Finished shards of the unfinished build that was set aside."""
        for path in sorted((self.superseded / "done").glob("*.json")):
            found = _read_done(path)
            if found:
                yield int(path.stem), found

    def publish(self, manifest: CacheManifest) -> None:
        """Make the finished build the cache; a kill at any point is mended by `recover`."""
        manifest.write(self.building)
        self.recover()

    def recover(self) -> None:
        """Finish a publication that was cut short, if there was one."""
        if not (self.building / FILE).is_file():
            return
        if (self.building / ARRAYS).exists():
            (self.folder / FILE).unlink(missing_ok=True)
            shutil.rmtree(self.folder / ARRAYS, ignore_errors=True)
            (self.building / ARRAYS).rename(self.folder / ARRAYS)
        (self.building / FILE).replace(self.folder / FILE)
        shutil.rmtree(self.building)
        shutil.rmtree(self.superseded, ignore_errors=True)


def _read_done(path: Path) -> DoneShard | None:
    if not path.is_file():
        return None
    content = json.loads(path.read_text(encoding="utf-8"))
    return DoneShard(**{name: tuple(values) for name, values in content.items()})
