"""Builds by several workers, for `test_build_programs`; a program of its own.

    python working.py IMAGES WEIGHTS SCRATCH

Everything slow is imported once; each worker runs in a fork. Prints one JSON object: by the name
of a case the number of images that each worker computed, null for one that was killed.
"""

from __future__ import annotations

import gc
import hashlib
import json
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from tiny_data import SMALL

from leakcache.dataset.index import DatasetIndex, read_index
from leakcache.encoder.autoencoder import Encoder
from leakcache.store import build_plan, one_pass
from leakcache.store.build import build_cache
from leakcache.store.column_store import ColumnStore
from leakcache.store.manifest import CacheManifest
from leakcache.store.zarr_column import ColumnSpec

ColumnSpec.per_shard = 2  # type: ignore[assignment, method-assign]
build_plan.HEARTBEAT = 0.1
one_pass.AHEAD = 2  # with more, one worker would claim all units while it reads ahead
NAMES = ("z0", "pixels_resize256", "degraded_pixel_statistics")

Fault = Callable[[Path], object]
"""What a worker does before it writes its first commit."""


class Builder:
    """Starts workers and reports what each did."""

    def __init__(self, index: DatasetIndex, encoder: Encoder, scratch: Path) -> None:
        self._index, self._encoder, self._scratch = index, encoder, scratch

    def start(self, home: Path, number: int, of: int, fault: Fault | None) -> int:
        child = os.fork()
        if child == 0:
            os._exit(self._build(home, number, of, fault))
        return child

    def run(
        self, name: str, of: int, faulty: int = -1, fault: Fault | None = None
    ) -> list[int | None]:
        """Start all workers of a cache at once; what each computed, None where it was killed."""
        home = self._scratch / name
        faults = dict.fromkeys(range(of), meet) if of > 1 else {}
        if fault:
            faults[faulty] = fault
        started = [self.start(home, n, of, faults.get(n)) for n in range(of)]
        ended = dict(os.wait() for _ in started)
        return [self._result(home, n, ended[child]) for n, child in enumerate(started)]

    def _result(self, home: Path, number: int, status: int) -> int | None:
        if os.WIFSIGNALED(status):
            return None
        assert status == 0, f"worker {number} of {home.name} failed with {status}"
        return int((self._scratch / f"{home.name}-{number}").read_text())

    def _build(self, home: Path, number: int, of: int, fault: Fault | None) -> int:
        try:
            if fault:
                _before_first_commit(fault, home)
            report = build_cache(
                self._index,
                self._encoder,
                home / "all",
                split="all",
                preprocessing=SMALL,
                columns=NAMES,
                worker=(number, of) if of > 1 else None,
                advance=lambda images: None,
            )
        except BaseException:
            traceback.print_exc()
            return 1
        (self._scratch / f"{home.name}-{number}").write_text(str(report.computed))
        return 0


def _before_first_commit(fault: Fault, home: Path) -> None:
    plain, calls = ColumnStore._write, []

    def write(*given: object) -> None:
        calls.append(given)
        if len(calls) == 1:
            fault(home)
        plain(*given)  # type: ignore[arg-type]

    ColumnStore._write = write  # type: ignore[method-assign]


def meet(home: Path) -> None:
    """Wait until another worker has come, or an end of the build."""
    plan = home / "store" / "plan"
    while plan.is_dir() and len(list(plan.glob("workers/*"))) < 2:
        time.sleep(0.05)


def die(home: Path) -> None:
    meet(home)
    os.kill(os.getpid(), signal.SIGKILL)


def pause(home: Path) -> None:
    """Stop all threads until the others have taken over and finished."""
    child = os.getpid()
    if os.fork() == 0:
        while not (home / "all" / "manifest.json").is_file():
            time.sleep(0.1)
        os.kill(child, signal.SIGCONT)
        os._exit(0)
    os.kill(child, signal.SIGSTOP)


def content(home: Path) -> dict[str, str]:
    """Hash of every file of a cache; of the manifest without how the build went."""
    manifest = home / "all" / "manifest.json"
    found = {
        path.relative_to(home).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(home.rglob("*"))
        if path.is_file() and path not in (manifest, home / ".lock")
    }
    return {**found, "manifest": repr(replace(CacheManifest.read(home / "all"), facts={}))}


def main(images: Path, weights: Path, scratch: Path) -> None:
    encoder = Encoder.load(str(weights))
    builder = Builder(read_index(images), encoder, scratch)
    gc.disable()  # a collection in a fork would copy every page it touches
    found = {
        "alone": builder.run("alone", 1),
        "three": builder.run("three", 3),
        "killed": builder.run("killed", 3, 1, die),
    }
    build_plan.EXPIRY = 2.0
    found["paused"] = builder.run("paused", 2, 1, pause)
    whole = content(scratch / "alone")
    for name in found:
        assert content(scratch / name) == whole, f"{name} has other files"
    found["late"] = builder.run("killed", 2)
    assert content(scratch / "killed") == whole
    print(json.dumps({**found, "files": len(whole)}))


if __name__ == "__main__":
    main(*(Path(argument) for argument in sys.argv[1:]))
