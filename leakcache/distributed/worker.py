"""Claims on work units, held by processes that show a heartbeat.

FOLDER/workers/TOKEN     one file a process, which touches it while it lives; host and number in it
FOLDER/claims/NAME       who computes a unit: the token of a process

A claim only saves work: two processes that compute the same unit write the same bytes, each file
whole. So a claim may be taken from a process that was paused for long and then continues.
"""

from __future__ import annotations

import json
import os
import socket
import threading
from contextlib import suppress
from pathlib import Path
from secrets import token_hex
from types import TracebackType

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
