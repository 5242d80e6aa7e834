"""Where an unfinished build lives, which of its shards are done, and how it becomes the cache.

DIR/manifest.json        written last: the cache is finished
DIR/latents.zarr         its arrays
DIR/building/            the same two, while a build runs or after it was killed
DIR/building/task.json   what that build is of; without it there is no build to resume
DIR/building/done/7.json shard 7 is on disk, and these were its images
DIR/superseded/0, 1, …   older unfinished builds, kept for the latents they hold
DIR/discarded            on its way out: nothing is read there

A kill may come between any two steps. So a folder leaves in one rename before its files are
removed, and every state in between is one that the next build mends or resumes.
"""

from __future__ import annotations

import fcntl
import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Any

from leakcache.errors import CacheCorrupt, CacheError
from leakcache.store.manifest import FILE, CacheManifest, write_json
from leakcache.store.zarr_shards import ARRAYS, ShardArrays

_TASK = "task.json"


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
        self._superseded = folder / "superseded"

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Keep other builds out of this folder while the body writes to it.

        Raises:
            CacheError: another build is running there, or the folder cannot be written to.
        """
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            with (self.folder / ".lock").open("w") as lock:
                self._take(lock)
                yield
        except OSError as error:
            raise CacheError(
                f"{self.folder}: cannot be written ({error.strerror or error}); make room or "
                "choose another --cache; what is finished is kept for the next build"
            ) from error

    def _take(self, lock: IO[str]) -> None:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise CacheError(
                f"{self.folder}: another build is writing here; wait for it or stop it"
            ) from error

    def clear(self) -> None:
        """Forget everything, finished or not."""
        (self.folder / FILE).unlink(missing_ok=True)
        for path in (self.building, self._superseded, self.folder / ARRAYS):
            self._discard(path)

    def unfinished(self) -> Task | None:
        """What the unfinished build here is of; None where there is none."""
        return _read_task(self.building)

    def begin(
        self, task: Task, images: int, latent_shape: tuple[int, int, int, int], stored: str
    ) -> ShardArrays:
        """Resume the unfinished build of this very task, or start one.

        An unfinished build of other images is set aside, so that no latent is lost.
        """
        found = self.unfinished()
        if found == task:
            return ShardArrays.resume(self.building)
        if found:
            self._set_aside()
        (self.building / "done").mkdir(parents=True)
        arrays = ShardArrays.create(self.building, images, latent_shape, stored)
        write_json(self.building / _TASK, asdict(task))
        return arrays

    def mark_done(self, shard: int, done: DoneShard) -> None:
        """Record that a shard is on disk; after this it is never written again."""
        write_json(self.building / "done" / f"{shard}.json", asdict(done))

    def done(self, shard: int) -> DoneShard | None:
        """What a finished shard holds; None where it is not finished."""
        path = self.building / "done" / f"{shard}.json"
        return _read_done(path) if path.is_file() else None

    def set_aside(self, encoding: str) -> Iterator[tuple[Path, int, DoneShard]]:
        """Folder, number and rows of every finished shard of the builds that were set aside.

        Args:
            encoding: fingerprint; builds of another are passed over.
        """
        for folder in self._set_aside_folders():
            task = _read_task(folder)
            if task and task.encoding == encoding:
                for path in sorted((folder / "done").glob("*.json")):
                    yield folder, int(path.stem), _read_done(path)

    def publish(self, manifest: CacheManifest) -> None:
        """Make the finished build the cache; a kill at any point is mended by `recover`."""
        manifest.write(self.building)
        self.recover()

    def recover(self) -> None:
        """Finish a publication or a removal that was cut short, if there was one."""
        self._empty_discarded()
        if (self.building / FILE).is_file():
            self._take_over()
        elif self.unfinished() is None:
            self._discard(self.building)

    def _take_over(self) -> None:
        if (self.building / ARRAYS).exists():
            (self.folder / FILE).unlink(missing_ok=True)
            self._discard(self.folder / ARRAYS)
            (self.building / ARRAYS).rename(self.folder / ARRAYS)
        # Before the manifest leaves: a task without arrays would look like a build to resume.
        (self.building / _TASK).unlink(missing_ok=True)
        self._discard(self._superseded)
        (self.building / FILE).replace(self.folder / FILE)
        self._discard(self.building)

    def _set_aside(self) -> None:
        taken = [int(folder.name) for folder in self._set_aside_folders()]
        self._superseded.mkdir(exist_ok=True)
        self.building.rename(self._superseded / str(max(taken, default=-1) + 1))

    def _set_aside_folders(self) -> list[Path]:
        return sorted(self._superseded.iterdir()) if self._superseded.is_dir() else []

    def _discard(self, path: Path) -> None:
        if path.exists():
            self._empty_discarded()
            path.rename(self._discarded)
            self._empty_discarded()

    def _empty_discarded(self) -> None:
        if self._discarded.exists():
            shutil.rmtree(self._discarded)

    @property
    def _discarded(self) -> Path:
        return self.folder / "discarded"


def _read_task(folder: Path) -> Task | None:
    path = folder / _TASK
    return Task(**_read(path)) if path.is_file() else None


def _read_done(path: Path) -> DoneShard:
    return DoneShard(**{name: tuple(values) for name, values in _read(path).items()})


def _read(path: Path) -> dict[str, Any]:
    try:
        content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise CacheCorrupt(f"{path}: is damaged ({error}); build with --fresh") from error
    return content
