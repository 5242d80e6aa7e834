"""The plan of a build on disk: its units, which process computes which, and which are done.

STORE/plan/plan.json       what is built, and the first commit of the build
STORE/plan/done/000007     what was read of unit 7; it is stored before this file appears
STORE/plan/staging/TOKEN/  files that a process has not finished
STORE/plan/workers/TOKEN   a process, which touches it while it lives; has its host and number
STORE/plan/claims/NAME     who computes a unit: the token of a process

The first commit is fixed when the plan is made, and from there each unit has commits and shards of
its own: whoever computes a unit, in whatever order, writes the same bytes to the same places. A
claim only saves work: it may be taken from a process that was paused for long and then continues.
"""

from __future__ import annotations

import json
import os
import shutil
import socket
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from secrets import token_hex
from types import TracebackType
from typing import Any

from leakcache.errors import CacheError
from leakcache.files import read_checked, write_checked

HEARTBEAT = 5.0
"""Seconds between two signs of life."""
EXPIRY = 90.0
"""Seconds without a sign of life after which a process counts as dead; above the time for which
clients of a network file system keep attributes of files."""


class Worker:
    """A process among those that share a folder; use it as a context.

    Attributes:
        token: name of this process, unique over hosts and time.
    """

    def __init__(self, folder: Path) -> None:
        self.token = f"{socket.gethostname()}-{os.getpid()}-{token_hex(4)}"
        self._folder = folder
        self._file = folder / "workers" / self.token
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._beat, daemon=True)

    def __enter__(self) -> Worker:
        for path in (self._folder / "claims", self._folder / "workers"):
            path.mkdir(parents=True, exist_ok=True)
        _write_new(self._file, json.dumps([host(), os.getpid()]))
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stopped.set()
        self._thread.join()
        self._file.unlink(missing_ok=True)

    def claim(self, name: str) -> bool:
        """Whether this process now holds a unit: nobody did, or only a dead process."""
        path = self._folder / "claims" / name
        if _write_new(path, self.token):
            return True
        if self._held(path):
            return False
        # Of several processes that find a dead one here, one can rename its claim.
        with suppress(FileNotFoundError):
            path.rename(path.with_name(f".{name}.{self.token}"))
            return _write_new(path, self.token)
        return False

    def _held(self, path: Path) -> bool:
        now = _modified(self._file)
        try:
            token = path.read_text(encoding="utf-8")
        except FileNotFoundError:
            return False
        # Between creation and writing a claim is empty: its own age counts.
        if not token:
            return now - _modified(path) < EXPIRY
        return token == self.token or _alive(self._folder / "workers" / token, now)

    def _beat(self) -> None:
        while not self._stopped.wait(HEARTBEAT):
            with suppress(OSError):
                os.utime(self._file)


def living(folder: Path) -> int:
    """How many processes work in a folder, those left out that are known to be dead."""
    files = [path for path in folder.glob("workers/*") if not path.name.startswith(".")]
    if not files:
        return 0
    # The clock of the file system tells the age of its files, not that of this host.
    probe = folder / "workers" / f".{token_hex(8)}"
    probe.touch()
    now = _modified(probe)
    probe.unlink()
    return sum(_alive(file, now) for file in files)


def host() -> str:
    """The host and its process namespace: equal where process numbers mean the same."""
    namespace = Path("/proc/self/ns/pid")
    inside = str(namespace.readlink()) if namespace.is_symlink() else ""
    return f"{socket.gethostname()} {inside}"


def _alive(file: Path, now: float) -> bool:
    """Whether the process of a heartbeat file is not known to be dead at this time."""
    try:
        text = file.read_text(encoding="utf-8")
        age = now - _modified(file)
    except FileNotFoundError:
        return False
    if text:  # else it is being written
        where, pid = json.loads(text)
        if where == host() and not _runs(pid):
            return False
    return age < EXPIRY


def _runs(pid: int) -> bool:
    if os.name != "posix":  # elsewhere signal 0 does not ask, but act
        return True
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _modified(path: Path) -> float:
    return path.stat().st_mtime


def _write_new(path: Path, text: str) -> bool:
    """Write a file that nobody else has written; False where somebody has."""
    try:
        with path.open("x", encoding="utf-8") as file:
            file.write(text)
    except FileExistsError:
        return False
    return True


FOLDER = "plan"
FILE = "plan.json"


@dataclass(frozen=True)
class BuildPlan:
    """A plan that is not finished.

    Attributes:
        folder: where it is kept.
        identity: hash of everything that the result depends on.
        first: number of the first commit of the build.
    """

    folder: Path
    identity: str
    first: int

    @classmethod
    def find(cls, store: Path) -> BuildPlan | None:
        """The plan in the folder of a store; None where there is none that can be read."""
        try:
            return cls(store / FOLDER, **read_checked(store / FOLDER / FILE))
        except (OSError, ValueError, TypeError):
            return None

    @classmethod
    def enter(cls, store: Path, identity: str, first: int) -> BuildPlan:
        """The plan of this identity that is there, or a new one.

        Call it with the lock of the cache; raises as `close_other_plan`.
        """
        close_other_plan(store, identity)
        if found := cls.find(store):
            return found
        plan = cls(store / FOLDER, identity, first)
        (plan.folder / "done").mkdir(parents=True, exist_ok=True)
        write_checked(plan.folder / FILE, {"identity": identity, "first": first})
        return plan

    @property
    def open(self) -> bool:
        """Whether nobody has finished or replaced it."""
        return BuildPlan.find(self.folder.parent) == self

    def close(self) -> None:
        """Remove it; call it with the lock of the cache."""
        (self.folder / FILE).unlink(missing_ok=True)
        shutil.rmtree(self.folder, ignore_errors=True)

    def staging(self, worker: Worker) -> Path:
        """Folder for files that this process has not finished; it is gone with the plan."""
        folder = self.folder / "staging" / worker.token
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    def done(self, unit: int) -> dict[str, Any] | None:
        """What was noted of a unit; None where it is not stored yet."""
        try:
            found: dict[str, Any] = json.loads(self._record(unit).read_text(encoding="utf-8"))
        except (OSError, ValueError):  # empty after a loss of power: it is computed again
            return None
        return found

    def record(self, unit: int, content: Mapping[str, Any], staging: Path) -> None:
        """Note that a unit is stored."""
        partial = staging / f"{unit:06d}"
        partial.write_text(json.dumps(content), encoding="utf-8")
        partial.replace(self._record(unit))

    def unclaimed(self, todo: Sequence[int], worker: Worker) -> Iterator[int]:
        """Units of a list that this process may compute, each claimed when it is asked for."""
        for unit in todo:
            # The second look is for a unit that was stored between the first one and the claim.
            if not self.done(unit) and worker.claim(f"{unit:06d}") and not self.done(unit):
                yield unit

    def _record(self, unit: int) -> Path:
        return self.folder / "done" / f"{unit:06d}"


def close_other_plan(store: Path, identity: str = "") -> None:
    """Remove a plan of another identity that nobody works on; call it with the cache's lock.

    Raises:
        CacheError: processes work on it.
    """
    found = BuildPlan.find(store)
    if found and found.identity == identity:
        return
    folder = store / FOLDER
    if workers := living(folder):
        raise CacheError(
            f"{store.parent}: a build of other images or settings is running here, in {workers} "
            "processes; wait for it or stop it"
        )
    shutil.rmtree(folder, ignore_errors=True)
