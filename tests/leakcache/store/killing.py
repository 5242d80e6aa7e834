"""Builds that are killed at a chosen step, for `test_build_programs`; a program of its own.

    python killing.py IMAGES WEIGHTS SCRATCH

Everything slow is imported once; each build then runs in a fork, which counts what it does to
the file system and kills itself with SIGKILL before step n. Prints one JSON object.
"""

from __future__ import annotations

import gc
import json
import os
import random
import signal
import sys
import threading
import traceback
from pathlib import Path
from typing import Any

import torch

# Before any parallel region: threads do not survive a fork.
torch.set_num_threads(1)

from tiny_data import SMALL, array_bytes  # noqa: E402

from leakcache.dataset.index import DatasetIndex, read_index  # noqa: E402
from leakcache.encoder.autoencoder import Encoder  # noqa: E402
from leakcache.store.build import build_cache  # noqa: E402
from leakcache.store.cache import Cache  # noqa: E402
from leakcache.store.column_store import ColumnStore  # noqa: E402
from leakcache.store.columns import COLUMNS  # noqa: E402
from leakcache.store.zarr_column import ColumnSpec  # noqa: E402

KILLS = 16
NEVER = 10**9
CHANGES = ("os.rename", "os.remove", "os.rmdir", "os.mkdir", "open")
SHARD = 4
ColumnSpec.per_shard = SHARD  # type: ignore[assignment, method-assign]


class Steps:
    """Counts changes to the file system; kills this process before the n-th."""

    def __init__(self, kill_before: int) -> None:
        self.taken = 0
        self._kill_before = kill_before
        self._lock = threading.Lock()

    def __call__(self, event: str, arguments: tuple[Any, ...]) -> None:
        if event not in CHANGES:
            return
        if event == "open" and not arguments[2] & (os.O_WRONLY | os.O_RDWR):
            return
        with self._lock:
            self.taken += 1
            if self.taken == self._kill_before:
                os.kill(os.getpid(), signal.SIGKILL)


class Builder:
    """Builds one cache of all columns over and over, each time in a fork."""

    def __init__(self, index: DatasetIndex, encoder: Encoder) -> None:
        self._index = index
        self._encoder = encoder

    def run(self, home: Path, kill_before: int = NEVER) -> dict[str, int] | None:
        """What the build did; None where it was killed."""
        reader, writer = os.pipe()
        child = os.fork()
        if child == 0:
            os._exit(self._build(home, kill_before, writer))
        os.close(writer)
        with os.fdopen(reader) as pipe:
            said = pipe.read()
        _, status = os.waitpid(child, 0)
        if os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL:
            return None
        assert status == 0, f"the build failed with {status}"
        found: dict[str, int] = json.loads(said)
        return found

    def _build(self, home: Path, kill_before: int, writer: int) -> int:
        steps = Steps(kill_before)
        sys.addaudithook(steps)
        try:
            report = build_cache(
                self._index,
                self._encoder,
                home / "all",
                split="all",
                preprocessing=SMALL,
                columns=COLUMNS,
            )
        except BaseException:
            traceback.print_exc()
            return 1
        os.write(writer, json.dumps({"computed": report.computed, "steps": steps.taken}).encode())
        return 0


def check(home: Path, index: DatasetIndex, whole: dict[str, str], before: int) -> int:
    """Of an image all columns are there or none, nothing is lost, and what is there is as it was.

    Returns the number of images that are stored.
    """
    store = ColumnStore(home)
    stored = [set(rows) for key, rows in store._rows.items() if not key.startswith("degraded")]
    assert all(images == stored[0] for images in stored), "an image has some of its columns"
    training = [rows for key, rows in store._rows.items() if key.startswith("degraded")]
    assert all(set(rows) <= stored[0] for rows in training)
    assert store.damaged() == {}
    committed = {(key, shard) for key, shard, _ in store.shards()}
    for path, digest in array_bytes(home).items():
        key, shard = path.split("/")[0], int(path.split("/")[3])
        assert (key, shard) not in committed or whole[path] == digest, f"{path} is different"
    count = len(stored[0]) if stored else 0
    assert count >= before, "a stored image was lost"
    if (home / "all" / "manifest.json").is_file():
        assert len(Cache.open(home / "all")) == len(index.records)
    return count


def main(images: Path, weights: Path, scratch: Path) -> None:
    dice = random.Random(0)
    encoder, index = Encoder.load(str(weights)), read_index(images)
    gc.disable()  # a collection in a fork would copy every page it touches
    builder = Builder(index, encoder)
    did = builder.run(scratch / "whole")
    assert did is not None
    whole = array_bytes(scratch / "whole")
    computed = []
    for number in range(KILLS):
        home, stored = scratch / f"random{number}", 0
        for point in [dice.randint(1, did["steps"]), dice.randint(1, 60)][: 1 + number % 2]:
            if builder.run(home, point):
                break
            stored = check(home, index, whole, stored)
        last = builder.run(home)
        assert last is not None
        assert array_bytes(home) == whole, f"other bytes after kill {number}"
        check(home, index, whole, stored)
        left = sorted(path.name for path in home.iterdir() if path.name != ".lock")
        assert left == ["all", "store"], left
        computed.append(last["computed"])
    print(json.dumps({**did, "random": computed}))


if __name__ == "__main__":
    main(*(Path(argument) for argument in sys.argv[1:]))
