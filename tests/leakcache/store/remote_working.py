"""Builds in an object store, for `test_remote_build`; a program of its own.

    python remote_working.py IMAGES WEIGHTS SCRATCH URL

Everything slow is imported once; each process is a fork, which starts before it uses obstore.
Prints one JSON object: by the name of a case how many images each process computed, its error, or
null for one that was killed.
"""

from __future__ import annotations

import gc
import json
import os
import shutil
import signal
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path

from tiny_data import SMALL, write_images
from working import NAMES, content

from leakcache.dataset.index import read_index
from leakcache.encoder.autoencoder import Encoder
from leakcache.errors import LeakError
from leakcache.store import remote_build
from leakcache.store.build import build_cache
from leakcache.store.cache import Cache
from leakcache.store.column_store import ColumnStore
from leakcache.store.remote import ORIGIN, Mirror
from leakcache.store.verify import verify

remote_build.PULL = 0.2

Result = int | str | None


class Builder:
    """Starts builds of one data set in caches of the store."""

    def __init__(self, images: Path, encoder: Encoder, scratch: Path, url: str) -> None:
        self.images, self.encoder, self.scratch, self.url = images, encoder, scratch, url
        self.count = 0

    def start(
        self,
        name: str,
        number: int = 0,
        of: int = 1,
        fault: Callable[[int], object] | None = None,
        images: Path | None = None,
        **options: bool,
    ) -> tuple[int, Path]:
        """Start a build in a new mirror; `fault` gets the number of units that were computed."""
        self.count += 1
        report = self.scratch / f"report{self.count}"
        home = self.scratch / f"{name}-mirror{self.count}"

        def build() -> None:
            if fault:
                _before_each_unit(fault)
            Mirror.open(f"{self.url}/{name}", home)
            try:
                done = build_cache(
                    read_index(images or self.images),
                    self.encoder,
                    home / "all",
                    split="all",
                    preprocessing=SMALL,
                    columns=NAMES,
                    worker=(number, of) if of > 1 else None,
                    upload=True,
                    advance=lambda images: None,
                    **options,
                )
                report.write_text(str(done.computed))
            except LeakError as error:
                report.write_text(json.dumps(f"{type(error).__name__}: {error}"))

        return fork(build), report

    def copy(self, name: str) -> dict[str, str]:
        """Content of a cache in the store, read through a new mirror."""
        home, file = self.scratch / f"{name}-copy", self.scratch / f"{name}.json"

        def read() -> None:
            Mirror.open(f"{self.url}/{name}", home)
            assert not verify([Cache.open(home / "all")], None, 0).damaged  # reads all shards
            (home / ORIGIN).unlink()
            file.write_text(json.dumps(content(home)))

        ended(fork(read))
        shutil.rmtree(home)
        return dict(json.loads(file.read_text()))


def fork(body: Callable[[], object]) -> int:
    child = os.fork()
    if child:
        return child
    try:
        body()
    except BaseException:
        traceback.print_exc()
        os._exit(1)
    os._exit(0)


def ended(child: int) -> bool:
    """Wait for a process; whether it was not killed."""
    status = os.waitpid(child, 0)[1]
    assert os.WIFSIGNALED(status) or status == 0
    return not os.WIFSIGNALED(status)


def results(*started: tuple[int, Path]) -> list[Result]:
    found = [(ended(child), report) for child, report in started]
    return [json.loads(report.read_text()) if alive else None for alive, report in found]


def _before_each_unit(fault: Callable[[int], object]) -> None:
    plain, numbers = ColumnStore.append, set[int]()

    def append(store: ColumnStore, *given: object, number: int, **more: object) -> None:
        numbers.add(number)
        fault(len(numbers))
        plain(store, *given, number=number, **more)  # type: ignore[arg-type]

    ColumnStore.append = append  # type: ignore[method-assign, assignment]


def die_at(unit: int) -> Callable[[int], object]:
    """Die in this unit, after the units before it were uploaded."""

    def fault(count: int) -> None:
        if count == unit:
            time.sleep(2.0)
            os.kill(os.getpid(), signal.SIGKILL)

    return fault


def pause_until(file: Path) -> Callable[[int], object]:
    """Stop all threads in the second unit, until a file is there."""

    def fault(count: int) -> None:
        if count == 2 and not file.exists():
            child = os.getpid()
            if os.fork() == 0:
                while not file.exists():
                    time.sleep(0.05)
                os.kill(child, signal.SIGCONT)
                os._exit(0)
            os.kill(child, signal.SIGSTOP)

    return fault


def slow(count: int) -> None:
    time.sleep(0.2)


def main(images: Path, weights: Path, scratch: Path, url: str) -> None:
    encoder = Encoder.load(str(weights))
    b = Builder(images, encoder, scratch, url)
    gc.disable()  # a collection in a fork would copy every page it touches
    index = read_index(images)
    build_cache(
        index, encoder, scratch / "local" / "all", split="all", preprocessing=SMALL, columns=NAMES
    )
    whole = content(scratch / "local")
    # Another machine goes on where a killed build was.
    killed = results(b.start("resumed", fault=die_at(4)))
    found: dict[str, list[Result]] = {"resumed": killed + results(b.start("resumed"))}
    # Of three workers one dies; they share no disk.
    faults = {1: die_at(2)}
    found["three"] = results(*(b.start("three", n, 3, faults.get(n, slow)) for n in range(3)))
    found["late"] = results(b.start("three", 1, 3))
    # One is paused until the other has published.
    flag = scratch / "flag"
    first = b.start("paused", 0, 2, pause_until(flag))
    found["paused"] = results(b.start("paused", 1, 2))
    flag.touch()
    found["paused"] += results(first)
    for name in ("resumed", "three", "paused"):
        assert b.copy(name) == whole, f"{name} has other files"
    # Another build takes the place of one that was killed, or stops one that runs.
    more = write_images(Path(shutil.copytree(images, scratch / "more")), count=1, first=80)
    flag.unlink()
    first = b.start("taken", fault=pause_until(flag))
    time.sleep(1.0)
    found["taken"] = results(b.start("taken", images=more))
    flag.touch()
    found["taken"] += results(first)
    before = b.copy("taken")
    found["fresh"] = results(b.start("taken", fresh=True))
    assert b.copy("taken") == whole != before
    print(json.dumps({**found, "left": left(b)}))


def left(b: Builder) -> list[str]:
    """Keys below the plans of all caches: nothing is left of those that ended."""
    file = b.scratch / "left.json"

    def read() -> None:
        objects = Mirror(b.scratch, b.url, {}).objects.list()
        file.write_text(json.dumps([key for key in objects if "/plan/" in key]))

    ended(fork(read))
    return list(json.loads(file.read_text()))


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:4]), sys.argv[4])
