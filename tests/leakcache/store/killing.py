"""Builds that are killed at a chosen step, for `test_build_kill`; a program of its own.

    python killing.py IMAGES WEIGHTS SCRATCH

Everything slow is imported once; each build then runs in a fork, which counts what it does to
the file system and kills itself with SIGKILL before step n. Prints one JSON object.
"""

from __future__ import annotations

import gc
import hashlib
import json
import os
import random
import shutil
import signal
import sys
import threading
import traceback
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

# Before any parallel region: threads do not survive a fork.
torch.set_num_threads(1)

from tiny_data import SMALL, array_bytes  # noqa: E402

from leakcache.dataset.index import DatasetIndex, read_index  # noqa: E402
from leakcache.encoder.autoencoder import Encoder  # noqa: E402
from leakcache.store import zarr_shards as shards  # noqa: E402
from leakcache.store.build import build_cache  # noqa: E402
from leakcache.store.cache import Cache  # noqa: E402

KILLS = 20
PUBLICATIONS = 10
NEVER = 10**9
CHANGES = ("os.rename", "os.remove", "os.rmdir", "os.mkdir", "open")
shards.SHARD = 4


class Steps:
    """Counts changes to the file system; kills this process before the n-th."""

    def __init__(self, kill_before: int) -> None:
        self.taken = 0
        self.published = 0
        self._kill_before = kill_before
        self._lock = threading.Lock()

    def __call__(self, event: str, arguments: tuple[Any, ...]) -> None:
        if event not in CHANGES:
            return
        if event == "open" and not arguments[2] & (os.O_WRONLY | os.O_RDWR):
            return
        with self._lock:
            self.taken += 1
            if str(arguments[0]).endswith("building/manifest.json.partial"):
                self.published = self.taken
            if self.taken == self._kill_before:
                os.kill(os.getpid(), signal.SIGKILL)


class Builder:
    """Builds one cache over and over, each time in a fork."""

    def __init__(self, index: DatasetIndex, encoder: Encoder) -> None:
        self._index = index
        self._encoder = encoder

    def run(self, folder: Path, kill_before: int = NEVER) -> dict[str, int] | None:
        """What the build did; None where it was killed."""
        reader, writer = os.pipe()
        child = os.fork()
        if child == 0:
            os._exit(self._build(folder, kill_before, writer))
        os.close(writer)
        with os.fdopen(reader) as pipe:
            said = pipe.read()
        _, status = os.waitpid(child, 0)
        if os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL:
            return None
        assert status == 0, f"the build failed with {status}"
        found: dict[str, int] = json.loads(said)
        return found

    def _build(self, folder: Path, kill_before: int, writer: int) -> int:
        steps = Steps(kill_before)
        sys.addaudithook(steps)
        try:
            report = build_cache(
                self._index, self._encoder, folder, split="all", preprocessing=SMALL
            )
        except BaseException:
            traceback.print_exc()
            return 1
        did = {"encoded": report.encoded, "steps": steps.taken, "published": steps.published}
        os.write(writer, json.dumps(did).encode())
        return 0


def finished_shards(folder: Path) -> dict[str, str]:
    """Hash of every shard that is marked as done in the unfinished build."""
    done = [path.stem for path in (folder / "building" / "done").glob("[0-9]*.json")]
    arrays = folder / "building" / shards.ARRAYS
    return {
        f"{name}/c/{shard}/0/0/0/0": hashlib.sha256(file.read_bytes()).hexdigest()
        for shard in done
        for name in ("z0", "dct_low")
        for file in (arrays / name / "c" / shard).rglob("0")
        if file.is_file()
    }


class Trial:
    """Kills one build, again and again, then lets it finish, and compares all the way.

    Attributes:
        caches: bytes of the arrays that a finished cache may hold: the new and the former.
    """

    def __init__(self, builder: Builder, folder: Path, caches: list[dict[str, str]]) -> None:
        self._builder, self._folder, self.caches = builder, folder, caches

    def kill(self, *points: int) -> int:
        """Kill before these steps; returns how many images the last build encoded."""
        done: dict[str, str] = {}
        for point in points:
            if self._builder.run(self._folder, point):
                break
            done = self._check(done)
        last = self._builder.run(self._folder)
        assert last is not None
        assert array_bytes(self._folder) == self.caches[0], f"other bytes after {points}"
        left = sorted(path.name for path in self._folder.iterdir())
        assert left == [".lock", "latents.zarr", "manifest.json"], f"{left} after {points}"
        return last["encoded"]

    def _check(self, before: dict[str, str]) -> dict[str, str]:
        """A finished cache is whole; a finished shard is neither lost nor changed."""
        if (self._folder / "manifest.json").is_file():
            Cache.open(self._folder)
            assert array_bytes(self._folder) in self.caches, "a cache of two builds"
        if not (self._folder / "building" / "task.json").is_file():
            return {}  # not begun, or published
        after = finished_shards(self._folder)
        assert before.items() <= after.items(), "a finished shard was lost or changed"
        assert after.items() <= self.caches[0].items(), "a shard is not as it should be"
        return after


def main(images: Path, weights: Path, scratch: Path) -> None:
    dice = random.Random(0)
    encoder, index = Encoder.load(str(weights)), read_index(images)
    gc.disable()  # a collection in a fork would copy every page it touches
    builder = Builder(index, encoder)
    did = builder.run(scratch / "whole")
    assert did is not None
    new = array_bytes(scratch / "whole")
    encoded = []
    for number in range(KILLS):
        trial = Trial(builder, scratch / f"random{number}", [new])
        points = [dice.randint(1, did["published"]), dice.randint(1, 60)]
        encoded.append(trial.kill(*points[: 1 + number % 2]))
    # Publication is short, so its steps are drawn for themselves, and a second kill comes
    # while the next build mends what the first left. A former cache is there to be replaced.
    Builder(replace(index, records=index.records[::2]), encoder).run(scratch / "former")
    former = array_bytes(scratch / "former")
    shutil.copytree(scratch / "former", scratch / "replaced")
    replaced = builder.run(scratch / "replaced")
    assert replaced is not None
    publication = range(replaced["published"], replaced["steps"] + 1)
    for step in dice.sample(publication, PUBLICATIONS):
        shutil.copytree(scratch / "former", scratch / f"publish{step}")
        Trial(builder, scratch / f"publish{step}", [new, former]).kill(step, dice.randint(1, 12))
    print(json.dumps({**did, "random": encoded, "publishing": len(publication)}))


if __name__ == "__main__":
    main(*(Path(argument) for argument in sys.argv[1:]))
